"""What fixed linear maps read of a language model's states at questions, and adapters trained on that.

States at the tokens of ` The object is a kind of: Its color is: ...` hold what the language model is about to answer.
Two linear readings of them generalize differently, and adapters are trained on both:

* *answers*: the language model's own output rows of the world's words ("logit lens"). No example fits them, so they
  read words that were never trained on as the language model understands them. The tokens vote on each attribute. How
  much the vote of a token counts, and what is subtracted from it, is fitted to words that are kept for choosing, so
  that the sum of the votes is a calibrated softmax.
* *readings*: ridge regression of everything about the scene, each from the token that shows it best. They tell two
  objects apart, which the answers do not, but know trained words only.

All of it is linear in the states, so it is folded into the adapters' first layers when training ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modeling_gill import GillForConditionalGeneration
from modeling_gill.mapper_gill import MapperOutput

from ..world.partial_scene import PartialScene
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES

WORDS: tuple[tuple[str, ...], ...] = (KINDS, COLOURS, PLACES, BACKGROUNDS)
NUM_ANSWERS = sum(map(len, WORDS))
# Readings: kind, colour and place of both objects, the background, and whether there is a second object.
READINGS = (KINDS, COLOURS, PLACES, KINDS, COLOURS, PLACES, BACKGROUNDS, ("second",))
NUM_READINGS = sum(map(len, READINGS))
# The number of the place in `WORDS`, and of that of the first object in `READINGS`.
_PLACE = WORDS.index(PLACES)
_RIDGE, _HELD_OUT = 1e-2, 4
# The regression that weighs the votes: its penalty, and steps and rate of Adam.
_VOTE_PENALTY, _VOTE_STEPS, _VOTE_RATE = 0.02, 200, 0.03
_MOST_TRAINED = 256
# Answers are trusted where they name this share of trained words.
_TRUSTED = 0.9


@dataclass(frozen=True)
class Examples:
    """States at the questions of prompts, and what these ask for.

    Attributes:
        states: Float16 `(num_prompts, num_tokens, hidden_size)`.
        known: The scene of each prompt, its objects in the order in which they are named.
        unseen: For each prompt the number in `WORDS` of the attribute that is said in words that are not trained on;
            -1 for none.
    """

    states: torch.Tensor
    known: Sequence[PartialScene]
    unseen: Sequence[int]


@dataclass(frozen=True)
class QuestionFeatures:
    """Linear maps from states to answers and readings.

    Attributes:
        weight: `torch.FloatTensor` of shape `(num_tokens, num_features, hidden_size)`, of `NUM_ANSWERS` answers and
            `NUM_READINGS` readings. Features that are not read at a token have zeros.
        bias: `torch.FloatTensor` of shape `(num_tokens, num_features)`.
        spread: `torch.FloatTensor` of shape `(num_tokens, NUM_ANSWERS)`, the standard deviation of answers over words
            that are not trained on.
        trusted: Whether the answers name nearly all trained words. A language model that was never trained has
            answers too.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    spread: torch.Tensor
    trusted: bool

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Features `(num_prompts, num_tokens, num_features)` of states `(num_prompts, num_tokens, hidden_size)`."""
        parts = [torch.einsum("nrd,rfd->nrf", part.float(), self.weight) + self.bias for part in states.split(1_024)]
        return torch.cat(parts)


def fit_features(
    examples: Examples, to_choose_by: Examples, word_rows: Sequence[Sequence[torch.Tensor]]
) -> QuestionFeatures:
    """
    Fit the maps.

    Args:
        examples: Prompts to train with.
        to_choose_by: Prompts of one object, in words that are kept for choosing.
        word_rows: For each of `WORDS` the language model's output rows of its words, `(num_words, hidden_size)`, in one
            or more forms; each token has a vote in each form.
    """
    states = examples.states
    alone = torch.tensor([len(scene.objects) == 1 for scene in examples.known])
    num_tokens, width = states.shape[1:]
    weight = torch.zeros(num_tokens, NUM_ANSWERS + NUM_READINGS, width)
    bias = torch.zeros(num_tokens, NUM_ANSWERS + NUM_READINGS)
    spread = torch.zeros(num_tokens, NUM_ANSWERS)
    trained_values, chosen_values = values_of(examples.known)[alone], values_of(to_choose_by.known)
    unseen = torch.tensor(to_choose_by.unseen)
    begin, trusted = 0, True
    for number, forms in enumerate(word_rows):
        asked, wanted = unseen == number, chosen_values[:, number]
        maps, offsets, votes, votes_trained = [], [], [], []
        for rows in forms:
            # How a word compares with the others of its attribute, in standard deviations over words to choose by. They
            # are centred so that every word is as likely over these: a language model is inclined to some answers.
            rows = rows.float() - rows.float().mean(0)
            values = to_choose_by.states.float() @ rows.T
            centre = torch.stack([values[asked & (wanted == word)].mean(0) for word in range(len(rows))]).mean(0)
            deviation = (values[asked] - centre).std(0).clamp(min=1e-6)
            maps.append(rows / deviation[..., None])
            offsets.append(-centre / deviation)
            votes.append((values - centre) / deviation)
            votes_trained.append((states[alone].float() @ rows.T - centre) / deviation)
        trained = torch.cat(votes_trained, dim=1)
        counts = weigh_votes(torch.cat(votes, dim=1), wanted, asked, trained, trained_values[:, number])
        named = ((trained * counts[:, None]).sum(1).argmax(1) == trained_values[:, number]).float().mean()
        trusted = trusted and bool(named >= _TRUSTED)
        own = slice(begin, begin + len(WORDS[number]))
        begin = own.stop
        for each, offset, count in zip(maps, offsets, counts.split(num_tokens), strict=True):
            weight[:, own] += count[:, None, None] * each
            bias[:, own] += count[:, None] * offset
            spread[:, own] += count[:, None]
    readings = _fit_readings(states, readings_of(examples.known))
    weight[:, NUM_ANSWERS:] = readings
    bias[:, NUM_ANSWERS:] = -torch.einsum("rd,rfd->rf", states.float().mean(0), readings)
    return QuestionFeatures(weight, bias, spread, trusted)


def weigh_votes(
    votes: torch.Tensor, wanted: torch.Tensor, asked: torch.Tensor, trained: torch.Tensor, trained_wanted: torch.Tensor
) -> torch.Tensor:
    """
    How much the vote of each token counts, by regression of the softmax of their sum; never less than nothing.

    Prompts in words that are kept for choosing and in trained words count alike.

    Args:
        votes: `(num_prompts, num_votes, num_words)`, in standard deviations.
        wanted: The number of the right word, `(num_prompts,)`.
        asked: Which of these prompts say the attribute in words that are not trained on.
        trained, trained_wanted: The same of prompts in trained words.

    Returns:
        `torch.FloatTensor` of shape `(num_votes,)`.
    """
    # A few hundred prompts are enough for a few dozen numbers.
    trained, trained_wanted = trained[:_MOST_TRAINED], trained_wanted[:_MOST_TRAINED]
    weights = torch.full((votes.shape[1],), 1.0 / votes.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=_VOTE_RATE)
    for _ in range(_VOTE_STEPS):
        counted = weights.clamp(min=0)
        loss = _VOTE_PENALTY * counted.sum()
        for each, right in ((votes[asked], wanted[asked]), (trained, trained_wanted)):
            loss = loss + functional.cross_entropy((each * counted[:, None]).sum(1), right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.detach().clamp(min=0)


def values_of(known: Sequence[PartialScene]) -> torch.Tensor:
    """Kind, colour, place of the first object and background, `torch.LongTensor` of shape `(num_scenes, 4)`."""
    rows = []
    for scene in known:
        first = scene.objects[0]
        said = (first.kind, first.colour, first.place, scene.background)
        rows.append([words.index(str(word)) for words, word in zip(WORDS, said, strict=True)])
    return torch.tensor(rows)


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

    # Answers to untrained words are weaker than those to trained ones, which stand in the prompt, and less sure: their
    # share in a mixture, how much tokens differ in it, and noise in standard deviations of answers to untrained words.
    _WEAKEST, _STRONGEST, _NOISE = 0.1, 1.1, 0.4
    _LEAST_SHARE, _SHARE_STD = 0.5, 0.2
    _READING_NOISE, _HIDDEN = 0.05, 0.9
    # Untrained phrases may read a little like a second object.
    _SEEMS_SECOND = 0.6
    # The place is the one attribute whose answers are often wrong for trained words too. These are read surely, and
    # other words are not: a reading is sure if it is this much larger than the next.
    _SURE_PLACE, _STRONGEST_PLACE = 0.35, 1.1

    def __init__(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        super().__init__()
        mapper: Any = model.mapper
        self.transformer: Any = mapper.transformer
        self.output_projection: Any = mapper.output_projection
        self.queries = mapper.queries
        self.trusts_answers = features.trusted
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
        self.spread: torch.Tensor
        for name, attributes in (("groups", WORDS), ("reading_groups", READINGS)):
            numbers = [torch.full((len(words),), number) for number, words in enumerate(attributes)]
            self.register_buffer(name, torch.cat(numbers), persistent=False)
        self.register_buffer("spread", features.spread, persistent=False)

    def augment(self, features: torch.Tensor, one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """
        Make answers as unsure as those to words that are not trained on, and hide readings that answers replace.

        Each attribute's answers become weaker, noisy, and a mixture with those to another prompt. So what they say may
        have changed, see [`~QuestionAdapters.likeliest`]. Where there is one object, most readings are those of another
        prompt, and those of its place are weaker. Where answers are not trusted, only a little noise is added to the
        readings.

        Args:
            features: `(batch_size, num_tokens, num_features)`.
            one: bool `(batch_size,)`, whether there is one object.
        """
        size, num_tokens, _ = features.shape
        answers, readings = features[..., :NUM_ANSWERS], features[..., NUM_ANSWERS:]

        def uniform(low: float, high: float, number: int) -> torch.Tensor:
            return low + (high - low) * torch.rand(size, 1, number, generator=generator)

        # Features that are not read at a token stay zero.
        noise = torch.randn(readings.shape, generator=generator) * (readings != 0)
        readings = readings + self._READING_NOISE * noise
        if not self.trusts_answers:
            return torch.cat([answers, readings], dim=-1)
        share = uniform(self._LEAST_SHARE, 1, len(WORDS))
        share = share + self._SHARE_STD * torch.randn(size, num_tokens, len(WORDS), generator=generator)
        share = share.clamp(0, 1)[..., self.groups]
        others = torch.cat(
            [answers[_among(one, generator)][..., self.groups == number] for number in range(len(WORDS))], dim=-1
        )
        strength = torch.exp(uniform(math.log(self._WEAKEST), math.log(self._STRONGEST), len(WORDS)))
        answers = (share * answers + (1 - share) * others) * strength[..., self.groups]
        answers = answers + self._NOISE * self.spread * torch.randn(answers.shape, generator=generator)
        hidden = uniform(0, 1, len(READINGS)) < self._HIDDEN
        # The last reading, of a second object, is never hidden.
        hidden[..., -1] = False
        hidden = one[:, None, None] & hidden[..., self.reading_groups]
        readings = torch.where(hidden, readings[_among(one, generator)], readings)
        weaker = uniform(0, self._STRONGEST_PLACE, 1).where(one[:, None, None], torch.ones(()))
        readings = torch.where(self.reading_groups == _PLACE, weaker * readings, readings)
        seems = uniform(0, self._SEEMS_SECOND, 1) * one[:, None, None] * (readings[..., -1:] != 0)
        readings = torch.cat([readings[..., :-1], readings[..., -1:] + seems], dim=-1)
        return torch.cat([answers, readings], dim=-1)

    def likeliest(self, features: torch.Tensor) -> torch.Tensor:
        """
        For each of `WORDS` the number of the word that most votes are for, `(batch_size, 4)`.

        A place that is read surely is the likeliest, whatever the votes are for.
        """
        votes, readings = features.sum(1).split([NUM_ANSWERS, NUM_READINGS], dim=1)
        likeliest = torch.stack([votes[:, self.groups == number].argmax(1) for number in range(len(WORDS))], dim=1)
        (first, second), (best, _) = (part.unbind(1) for part in readings[:, self.reading_groups == _PLACE].topk(2))
        likeliest[:, _PLACE] = torch.where(first - second > self._SURE_PLACE, best, likeliest[:, _PLACE])
        return likeliest

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
        bias = self.input_bias + torch.einsum("rf,rfw->rw", features.bias, self.input_weight)
        # The mapper reads the sum of a state and of its row.
        mapper.input_projection.weight.copy_(weight)
        mapper.input_projection.bias.copy_(bias - torch.einsum("rwd,rd->rw", weight, model.img_embeddings.weight))
        head.weight.copy_(torch.einsum("rfd,fp->prd", features.weight, self.retrieval_weight).flatten(1))
        head.bias.copy_(self.retrieval_bias + features.bias.sum(0) @ self.retrieval_weight)


def _among(one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each prompt of a batch, the number of a random one with as many objects."""
    others = torch.arange(len(one))
    for numbers in (one.nonzero()[:, 0], (~one).nonzero()[:, 0]):
        others[numbers] = numbers[torch.randperm(len(numbers), generator=generator)]
    return others
