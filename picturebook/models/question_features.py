"""What fixed linear maps read of a language model's states at questions, and adapters trained on that.

States at the tokens of ` The object is a kind of: Its color is: ...` hold what the language model is about to answer.
Two linear readings of them generalize differently, and adapters are trained on both:

* *answers*: the language model's own output rows of the world's words, at tokens that ask for them ("logit lens"). No
  example fits them, so they read words that were never trained on as the language model understands them. A few tokens
  vote on each attribute: their errors differ.
* *readings*: ridge regression of everything about the scene, each from the token that shows it best. They tell two
  objects apart, which the answers do not, but know trained words only.

All of it is linear in the states, so it is folded into the adapters' first layers when training ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modeling_gill import GillForConditionalGeneration
from modeling_gill.mapper_gill import MapperOutput

from ..world.partial_scene import PartialScene
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES

WORDS: tuple[tuple[str, ...], ...] = (KINDS, COLOURS, PLACES, BACKGROUNDS)
NUM_ANSWERS = sum(map(len, WORDS))
# For each of `WORDS`, the tokens of ` The object is a kind of: Its color is: Position (left, right, top, bottom): Scene
# (day, night, sea, snow):` that vote, chosen on the words of `validation`; one that is named twice has two votes.
VOTERS: tuple[tuple[int, ...], ...] = (
    (5, 7, 27, 28, 29),
    (9, 9, 9, 11),
    (12, 12, 14, 14, 15, 25),
    (22, 23, 24, 26, 26, 27, 28),
)
# Readings: kind, colour and place of both objects, the background, and whether there is a second object.
READINGS = (KINDS, COLOURS, PLACES, KINDS, COLOURS, PLACES, BACKGROUNDS, ("second",))
NUM_READINGS = sum(map(len, READINGS))
_RIDGE, _HELD_OUT = 1e-2, 4


@dataclass(frozen=True)
class QuestionFeatures:
    """Linear maps from states to answers and readings.

    Attributes:
        weight: `torch.FloatTensor` of shape `(num_tokens, num_features, hidden_size)`, of `NUM_ANSWERS` answers and
            `NUM_READINGS` readings. Features that are not read at a token have zeros.
        mean: `torch.FloatTensor` of shape `(num_tokens, hidden_size)`, that is subtracted from the states.
    """

    weight: torch.Tensor
    mean: torch.Tensor

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Features `(num_prompts, num_tokens, num_features)` of states `(num_prompts, num_tokens, hidden_size)`."""
        parts = [torch.einsum("nrd,rfd->nrf", part.float() - self.mean, self.weight) for part in states.split(1_024)]
        return torch.cat(parts)


def fit_features(
    states: torch.Tensor, known: Sequence[PartialScene], word_rows: Sequence[torch.Tensor]
) -> QuestionFeatures:
    """
    Fit the maps.

    Args:
        states: Float16 `(num_prompts, num_tokens, hidden_size)`.
        known: The scene of each prompt, its objects in the order in which they are named.
        word_rows: For each of `WORDS`, the language model's output rows of its words.
    """
    # Answers are read where there is one object.
    alone = states[[len(scene.objects) == 1 for scene in known]].float()
    mean = alone.mean(0)
    num_tokens, width = mean.shape
    weight = torch.zeros(num_tokens, NUM_ANSWERS + NUM_READINGS, width)
    begin = 0
    for rows, voters in zip(word_rows, VOTERS, strict=True):
        # How a word compares with the others of its attribute, in its own standard deviations.
        rows = rows.float() - rows.float().mean(0)
        for token in voters:
            if token < num_tokens:
                values = (alone[:, token] - mean[token]) @ rows.T
                weight[token, begin : begin + len(rows)] += rows / values.std(0).clamp(min=1e-6)[:, None]
        begin += len(rows)
    weight[:, NUM_ANSWERS:] = _fit_readings(states, readings_of(known))
    return QuestionFeatures(weight, mean)


def readings_of(known: Sequence[PartialScene]) -> torch.Tensor:
    """What the readings should be, `(num_scenes, NUM_READINGS)`, 0 or 1; 0 for a second object that is not there."""
    values = torch.zeros(len(known), NUM_READINGS)
    for number, scene in enumerate(known):
        words: list[str | None] = []
        for at in range(2):
            obj = scene.objects[at] if at < len(scene.objects) else None
            words += [None, None, None] if obj is None else [obj.kind, obj.colour, obj.place]
        words += [scene.background, "second" if len(scene.objects) > 1 else None]
        begin = 0
        for word, choices in zip(words, READINGS, strict=True):
            if word is not None:
                values[number, begin + choices.index(word)] = 1
            begin += len(choices)
    return values


def _fit_readings(states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`(num_tokens, num_readings, hidden_size)`: each attribute is read at the token that tells it best.

    The token is chosen by the squared error on every fourth prompt, of maps that are fitted to the others.
    """
    held_out = torch.arange(len(states)) % _HELD_OUT == 0
    centred = (targets - targets.mean(0)).double()
    fitted, errors = [], []
    for token in range(states.shape[1]):
        inputs = states[:, token].double()
        inputs = inputs - inputs.mean(0)
        chosen = _ridge(inputs[~held_out], centred[~held_out])
        errors.append((inputs[held_out] @ chosen - centred[held_out]).square().mean(0))
        fitted.append(_ridge(inputs, centred).T.float())
    weight = torch.zeros(len(fitted), targets.shape[1], states.shape[-1])
    begin = 0
    for choices in READINGS:
        own = slice(begin, begin + len(choices))
        best = int(torch.stack(errors)[:, own].mean(1).argmin())
        weight[best, own] = fitted[best][own]
        begin += len(choices)
    return weight


def _ridge(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    scale = inputs.std(0) + 1e-3 * inputs.std()
    inputs = inputs / scale
    gram = inputs.T @ inputs
    penalty = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + penalty, inputs.T @ targets) / scale[:, None]


class QuestionAdapters(nn.Module):
    """GILL's mapper and retrieval head over features of the states, trained with their losses.

    Args:
        model ([`GillForConditionalGeneration`]): With `distinct_image_states`. Its mapper is trained, but for the first
            layer, which is made of this one's by [`~QuestionAdapters.fold`].
        features ([`QuestionFeatures`]): What the adapters read.
    """

    # Answers to untrained words are weaker than those to trained ones, which stand in the prompt, and less sure.
    _WEAKEST, _STRONGEST, _NOISE = 0.3, 1.1, 0.35
    # The own answers' share of a mixture, and how much tokens differ in it.
    _LEAST_SHARE, _SHARE_STD = 0.58, 0.2
    _READING_NOISE, _HIDDEN = 0.05, 0.8
    # Untrained phrases may read a little like a second object.
    _SEEMS_SECOND = 0.5

    def __init__(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        super().__init__()
        mapper: Any = model.mapper
        self.transformer: Any = mapper.transformer
        self.output_projection: Any = mapper.output_projection
        self.queries = mapper.queries
        num_tokens, num_features, _ = features.weight.shape
        width, retrieval_dim = model.config.mapper_hidden_size, model.config.retrieval_dim
        # A feature means the same at every token, where training begins.
        weight = torch.randn(1, num_features, width) * (2.0 / num_features) ** 0.5
        self.input_weight = nn.Parameter(weight.repeat(num_tokens, 1, 1))
        self.input_bias = nn.Parameter(torch.randn(num_tokens, width) * 0.5)
        self.retrieval_weight = nn.Parameter(torch.zeros(num_features, retrieval_dim))
        self.retrieval_bias = nn.Parameter(torch.zeros(retrieval_dim))
        nn.init.normal_(self.retrieval_weight, std=num_features**-0.5)
        self.groups: torch.Tensor
        self.reading_groups: torch.Tensor
        for name, attributes in (("groups", WORDS), ("reading_groups", READINGS)):
            numbers = [torch.full((len(words),), number) for number, words in enumerate(attributes)]
            self.register_buffer(name, torch.cat(numbers))

    def augment(self, features: torch.Tensor, one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """
        Make answers as unsure as those to words that are not trained on, and hide readings that answers replace.

        Each attribute's answers become weaker, noisy, and a mixture with those to another prompt, of which the own
        ones have the larger share: what is to be drawn is still the likeliest answer. Where there is one object, most
        readings are those of another prompt.

        Args:
            features: `(batch_size, num_tokens, num_features)`.
            one: bool `(batch_size,)`, whether there is one object.
        """
        size, num_tokens, _ = features.shape
        answers, readings = features[..., :NUM_ANSWERS], features[..., NUM_ANSWERS:]

        def uniform(low: float, high: float, number: int) -> torch.Tensor:
            return low + (high - low) * torch.rand(size, 1, number, generator=generator)

        def noise(like: torch.Tensor, std: float) -> torch.Tensor:
            # Features that are not read at a token stay zero.
            return std * torch.randn(like.shape, generator=generator) * (like != 0)

        share = uniform(self._LEAST_SHARE, 1, len(WORDS))
        share = share + self._SHARE_STD * torch.randn(size, num_tokens, len(WORDS), generator=generator)
        share = share.clamp(0, 1)[..., self.groups]
        answers = share * answers + (1 - share) * answers[_among(one, generator)]
        answers = answers * uniform(self._WEAKEST, self._STRONGEST, len(WORDS))[..., self.groups]
        hidden = uniform(0, 1, len(READINGS)) < self._HIDDEN
        # The last reading, of a second object, is never hidden.
        hidden[..., -1] = False
        hidden = one[:, None, None] & hidden[..., self.reading_groups]
        readings = torch.where(hidden, readings[_among(one, generator)], readings)
        seems = uniform(0, self._SEEMS_SECOND, 1) * one[:, None, None] * (readings[..., -1:] != 0)
        readings = torch.cat([readings[..., :-1], readings[..., -1:] + seems], dim=-1)
        return torch.cat(
            [answers + noise(answers, self._NOISE), readings + noise(readings, self._READING_NOISE)], dim=-1
        )

    def map(self, features: torch.Tensor) -> MapperOutput:
        """The mapper's output for features."""
        inputs = torch.einsum("nrf,rfw->nrw", features, self.input_weight) + self.input_bias
        states = self.transformer(inputs, self.queries.expand(len(inputs), -1, -1))
        return MapperOutput({"prompt_embeds": self.output_projection(states)})

    def retrieval_embeds(self, features: torch.Tensor) -> torch.Tensor:
        """The retrieval head's output for features; an answer is read where it is asked for."""
        return features.sum(1) @ self.retrieval_weight + self.retrieval_bias

    @torch.no_grad()
    def fold(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        """Write the first layers of the mapper and of the retrieval head, which read states, into the model."""
        mapper: Any = model.mapper
        head: Any = model.text_retrieval_head
        weight = torch.einsum("rfd,rfw->rwd", features.weight, self.input_weight)
        # The mapper reads the sum of a state and of its row.
        mean = features.mean + model.img_embeddings.weight
        mapper.input_projection.weight.copy_(weight)
        mapper.input_projection.bias.copy_(self.input_bias - torch.einsum("rwd,rd->rw", weight, mean))
        retrieval = torch.einsum("rfd,fp->prd", features.weight, self.retrieval_weight)
        head.weight.copy_(retrieval.flatten(1))
        head.bias.copy_(self.retrieval_bias - torch.einsum("prd,rd->p", retrieval, features.mean))


def _among(one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each prompt of a batch, the number of a random one with as many objects."""
    others = torch.arange(len(one))
    for numbers in (one.nonzero()[:, 0], (~one).nonzero()[:, 0]):
        others[numbers] = numbers[torch.randperm(len(numbers), generator=generator)]
    return others
