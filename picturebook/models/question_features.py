"""What fixed linear maps read of a language model's states at questions.

States at the tokens of ` The object is a kind of: Its color is: ...` hold what the language model is about to answer.
Two linear readings of them generalize differently, and adapters are trained on both (`question_adapters.py`):

* *answers*: the language model's own output rows of the world's words ("logit lens"), which read words that were never
  trained on as the language model understands them. The tokens vote on each attribute. How much the vote of a token
  counts, what is subtracted from it, and a correction that is linear in the state of the token that counts most, are
  fitted to words that are kept for choosing, so that their sum is a calibrated softmax.
* *readings*: ridge regression of everything about the scene, each from the token that shows it best. They tell two
  objects apart, which the answers do not, but know trained words only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..world.partial_scene import PartialScene
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES

WORDS: tuple[tuple[str, ...], ...] = (KINDS, COLOURS, PLACES, BACKGROUNDS)
NUM_ANSWERS = sum(map(len, WORDS))
# Readings: kind, colour and place of both objects, the background, and whether there is a second object.
READINGS = (KINDS, COLOURS, PLACES, KINDS, COLOURS, PLACES, BACKGROUNDS, ("second",))
NUM_READINGS = sum(map(len, READINGS))
_RIDGE, _HELD_OUT = 1e-2, 4
# The regression that weighs the votes: its penalty, and steps and rate of Adam.
_VOTE_PENALTY, _VOTE_STEPS, _VOTE_RATE = 0.02, 200, 0.03
# The same of what corrects them.
_CORRECTION_PENALTY, _CORRECTION_RATE = 3e-4, 0.01
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
    states_alone = states[alone]
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
            votes_trained.append((states_alone.float() @ rows.T - centre) / deviation)
        # A few hundred prompts in trained words are enough, beside those in words to choose by.
        some = slice(0, _MOST_TRAINED)
        trained = torch.cat(votes_trained, dim=1)
        known = Votes(torch.cat(votes, dim=1)[asked], wanted[asked])
        known_trained = Votes(trained[some], trained_values[some, number])
        counts = weigh_votes(known, known_trained)
        # By the votes alone: what corrects them is fitted to trained words, and names these for any language model.
        named = ((trained * counts[:, None]).sum(1).argmax(1) == trained_values[:, number]).float().mean()
        trusted = trusted and bool(named >= _TRUSTED)
        token = int(counts.unflatten(0, (len(forms), num_tokens)).sum(0).argmax())
        at_token = (to_choose_by.states[asked, token].float(), states_alone[some, token].float())
        counts, correction = correct_votes(known, known_trained, *at_token)
        own = slice(begin, begin + len(WORDS[number]))
        begin = own.stop
        weight[token, own] += correction.weight
        bias[token, own] += correction.bias
        for each, offset, count in zip(maps, offsets, counts.split(num_tokens), strict=True):
            weight[:, own] += count[:, None, None] * each
            bias[:, own] += count[:, None] * offset
            spread[:, own] += count[:, None]
    readings = _fit_readings(states, readings_of(examples.known))
    weight[:, NUM_ANSWERS:] = readings
    bias[:, NUM_ANSWERS:] = -torch.einsum("rd,rfd->rf", states.float().mean(0), readings)
    return QuestionFeatures(weight, bias, spread, trusted)


@dataclass(frozen=True)
class Votes:
    """Votes of tokens for the words of an attribute, and the right words.

    Attributes:
        values: `torch.FloatTensor` of shape `(num_prompts, num_votes, num_words)`, in standard deviations.
        wanted: `torch.LongTensor` of shape `(num_prompts,)`, the number of the right word.
    """

    values: torch.Tensor
    wanted: torch.Tensor

    def loss(self, counts: torch.Tensor, correction: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Cross-entropy of the sum of the votes, each counted as often as `counts` says, and of a correction."""
        return functional.cross_entropy((self.values * counts[:, None]).sum(1) + correction, self.wanted)


def weigh_votes(unseen: Votes, trained: Votes) -> torch.Tensor:
    """
    How much the vote of each token counts, by regression of the softmax of their sum; never less than nothing.

    Args:
        unseen: Of prompts that say the attribute in words that are kept for choosing.
        trained: Of prompts that say it in trained words. Both count alike.

    Returns:
        `torch.FloatTensor` of shape `(num_votes,)`.
    """
    weights = torch.full((unseen.values.shape[1],), 1.0 / unseen.values.shape[1], requires_grad=True)

    def loss() -> torch.Tensor:
        counted = weights.clamp(min=0)
        return _VOTE_PENALTY * counted.sum() + unseen.loss(counted) + trained.loss(counted)

    _minimize(loss, [{"params": [weights], "lr": _VOTE_RATE}])
    return weights.detach().clamp(min=0)


def correct_votes(
    unseen: Votes, trained: Votes, unseen_states: torch.Tensor, trained_states: torch.Tensor
) -> tuple[torch.Tensor, nn.Linear]:
    """
    Weigh votes together with a linear function of one state that corrects their sum, by the same regression.

    A language model answers some words wrongly in the same way as others: what is to be read of its state is close to
    its output rows, but not the same. The penalty keeps it close.

    Args:
        unseen, trained: As of [`weigh_votes`].
        unseen_states, trained_states: States of these prompts at one token, `(num_prompts, hidden_size)`.

    Returns:
        `torch.FloatTensor` of shape `(num_votes,)`, and the function.
    """
    mean, spread = unseen_states.mean(0), unseen_states.std(0)
    # All coordinates of a state count alike, and together as one.
    scale = (spread + 1e-2 * spread.mean()) * unseen_states.shape[1] ** 0.5
    inputs, inputs_trained = (unseen_states - mean) / scale, (trained_states - mean) / scale
    weights = torch.full((unseen.values.shape[1],), 1.0 / unseen.values.shape[1], requires_grad=True)
    matrix = torch.zeros(inputs.shape[1], unseen.values.shape[2], requires_grad=True)

    def loss() -> torch.Tensor:
        counted = weights.clamp(min=0)
        penalty = _VOTE_PENALTY * counted.sum() + _CORRECTION_PENALTY * matrix.square().sum()
        return penalty + unseen.loss(counted, inputs @ matrix) + trained.loss(counted, inputs_trained @ matrix)

    _minimize(loss, [{"params": [weights], "lr": _VOTE_RATE}, {"params": [matrix], "lr": _CORRECTION_RATE}])
    correction = nn.Linear(*matrix.shape)
    with torch.no_grad():
        correction.weight.copy_((matrix / scale[:, None]).T)
        correction.bias.copy_(-correction.weight @ mean)
    return weights.detach().clamp(min=0), correction.requires_grad_(False)


def _minimize(loss_of: Callable[[], torch.Tensor], parameters: list[dict[str, Any]]) -> None:
    optimizer = torch.optim.Adam(parameters)
    for _ in range(_VOTE_STEPS):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


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
