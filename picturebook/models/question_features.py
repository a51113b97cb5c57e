"""What fixed linear maps read of a language model's states at questions, and adapters trained on that.

States at the tokens of ` First object: Color: ...` hold what the language model is about to answer. Two linear readings
of them generalize differently, and adapters are trained on both:

* *answers*: the language model's own output rows of the world's words, at the colon that asks for them ("logit lens").
  No example fits them, so they read words that were never trained on as the language model understands them.
* *readings*: ridge regression of everything about the scene from all states. They tell two objects apart, which the
  answers do not, but know trained words only.

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

_KINDS, _COLOURS, _PLACES, _BACKGROUNDS = range(4)
WORDS: tuple[tuple[str, ...], ...] = (KINDS, COLOURS, PLACES, BACKGROUNDS)
# Which answers are read at which token of ` First object: Color: Position: Second object: Color: Position: Time:`.
ASKED_AT: dict[int, tuple[int, ...]] = {
    2: (_KINDS, _BACKGROUNDS),
    4: (_COLOURS,),
    6: (_KINDS, _PLACES, _BACKGROUNDS),
    7: (_KINDS,),
    15: (_BACKGROUNDS,),
}
# Readings: kind, colour and place of both objects, the background, and whether there is a second object.
_READINGS = (KINDS, COLOURS, PLACES, KINDS, COLOURS, PLACES, BACKGROUNDS, ("second",))
NUM_READINGS = sum(map(len, _READINGS))
# The readings that answers replace where there is one object.
_ANSWERED = len(KINDS) + len(COLOURS)
_RIDGE, _MOST_FITTED = 0.1, 4_096


@dataclass(frozen=True)
class QuestionFeatures:
    """Linear maps from states to answers and readings.

    Attributes:
        weight: `torch.FloatTensor` of shape `(num_tokens, num_features, hidden_size)`. Features that are not read at a
            token have zeros. The last `NUM_READINGS` are the token's share of the readings, the sum of all tokens.
        mean: `torch.FloatTensor` of shape `(num_tokens, hidden_size)`, that is subtracted from the states.
        groups: For each answer, the number of its question and attribute; answers of one group are scaled together.
    """

    weight: torch.Tensor
    mean: torch.Tensor
    groups: torch.Tensor

    @property
    def num_answers(self) -> int:
        return self.weight.shape[1] - NUM_READINGS

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
    mean = states.float().mean(0)
    num_tokens, width = mean.shape
    answers: list[tuple[int, torch.Tensor]] = []
    groups: list[int] = []
    for token, attributes in ASKED_AT.items():
        if token >= num_tokens:
            continue
        for attribute in attributes:
            rows = word_rows[attribute].float()
            values = (states[:, token].float() - mean[token]) @ rows.T
            groups += [len(answers)] * len(rows)
            answers.append((token, rows / values.std().clamp(min=1e-6)))
    weight = torch.zeros(num_tokens, len(groups) + NUM_READINGS, width)
    begin = 0
    for token, rows in answers:
        weight[token, begin : begin + len(rows)] = rows
        begin += len(rows)
    weight[:, begin:] = _ridge(states, mean, readings_of(known)).transpose(1, 2)
    return QuestionFeatures(weight, mean, torch.tensor(groups))


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
        for word, choices in zip(words, _READINGS, strict=True):
            if word is not None:
                values[number, begin + choices.index(word)] = 1
            begin += len(choices)
    return values


def _ridge(states: torch.Tensor, mean: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """`(num_tokens, hidden_size, num_readings)`; fitted in the space of the prompts, of which there are fewer."""
    step = -(-len(states) // _MOST_FITTED)
    centred = states[::step].float() - mean
    scale = centred.std(0) + 1e-3 * centred.std()
    flat = (centred / scale).flatten(1)
    products = flat @ flat.T
    regularized = products + _RIDGE * products.diagonal().mean() * torch.eye(len(products))
    solved = torch.linalg.solve(regularized, targets[::step] - targets[::step].mean(0))
    return (flat.T @ solved).view(*mean.shape, -1) / scale[..., None]


class QuestionAdapters(nn.Module):
    """GILL's mapper and retrieval head over features of the states, trained with their losses.

    Args:
        model ([`GillForConditionalGeneration`]): With `distinct_image_states`. Its mapper is trained, but for the first
            layer, which is made of this one's by [`~QuestionAdapters.fold`].
        features ([`QuestionFeatures`]): What the adapters read.
    """

    # Answers to untrained words are weaker than those to trained ones, which stand in the prompt.
    _WEAKEST, _STRONGEST = 0.3, 1.1
    _NOISE = 0.35

    def __init__(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        super().__init__()
        mapper: Any = model.mapper
        self.transformer: Any = mapper.transformer
        self.output_projection: Any = mapper.output_projection
        self.queries = mapper.queries
        num_tokens, num_features, _ = features.weight.shape
        width, retrieval_dim = model.config.mapper_hidden_size, model.config.retrieval_dim
        self.input_weight = nn.Parameter(torch.randn(num_tokens, num_features, width) * (2.0 / num_features) ** 0.5)
        self.input_bias = nn.Parameter(torch.randn(num_tokens, width) * 0.5)
        self.retrieval_weight = nn.Parameter(torch.zeros(num_features, retrieval_dim))
        self.retrieval_bias = nn.Parameter(torch.zeros(retrieval_dim))
        nn.init.normal_(self.retrieval_weight, std=num_features**-0.5)
        self.num_answers = features.num_answers
        self.groups: torch.Tensor
        self.register_buffer("groups", features.groups)

    def augment(self, features: torch.Tensor, one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """
        Weaken and disturb the answers, and hide the readings that answers replace where there is one object.

        Args:
            features: `(batch_size, num_tokens, num_features)`.
            one: bool `(batch_size,)`, whether there is one object.
        """
        size, count = len(features), int(self.groups.max()) + 1
        factors = self._WEAKEST + (self._STRONGEST - self._WEAKEST) * torch.rand(size, count, generator=generator)
        answers = features[..., : self.num_answers] * factors[:, None, self.groups]
        answers = answers + self._NOISE * torch.randn(answers.shape, generator=generator) * (answers != 0)
        readings = features[..., self.num_answers :].clone()
        numbers = one.nonzero()[:, 0]
        others = numbers[torch.randperm(len(numbers), generator=generator)]
        readings[numbers, :, :_ANSWERED] = readings[others, :, :_ANSWERED]
        return torch.cat([answers, readings], dim=-1)

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
