"""Fixed readings of states."""

import numpy as np
import torch

from picturebook.models.question_features import (
    NUM_ANSWERS,
    NUM_READINGS,
    READINGS,
    WORDS,
    Examples,
    QuestionFeatures,
    Votes,
    correct_votes,
    fit_features,
    readings_of,
    values_of,
    weigh_votes,
)
from picturebook.world.caption_grammar import parse_caption
from picturebook.world.scene import COLOURS, KINDS

CAPTIONS = (
    "a red house on the left at night",
    "a blue boat at the top and a green cat on the right at sea",
    "a pink fish at the bottom by day",
    "a yellow tree on the right in the snow",
) * 5
TOKENS = 5
PLACE_PHRASES = ("on the left", "on the right", "at the top", "at the bottom")
BACKGROUND_PHRASES = ("by day", "at night", "at sea", "in the snow")


# One object each, and every value of every attribute, which is then said in words to choose by.
CHOSEN = [f"a {COLOURS[n % 6]} {KINDS[n]} {PLACE_PHRASES[n % 4]} {BACKGROUND_PHRASES[n // 2]}" for n in range(8)] * 4


def features_of(width: int, tokens: int = TOKENS) -> tuple[torch.Tensor, QuestionFeatures]:
    torch.manual_seed(0)
    states = torch.randn(len(CAPTIONS), tokens, width).half()
    known = [parse_caption(caption) for caption in CAPTIONS]
    chosen = [parse_caption(caption) for caption in CHOSEN]
    unseen = [number // 8 for number in range(len(CHOSEN))]
    to_choose_by = Examples(torch.randn(len(CHOSEN), tokens, width).half(), chosen, unseen)
    word_rows = [[torch.randn(len(words), width) for _ in range(2)] for words in WORDS]
    return states, fit_features(Examples(states, known, [-1] * len(known)), to_choose_by, word_rows)


def test_each_attribute_is_read_at_one_token() -> None:
    states, features = features_of(24)
    begin = NUM_ANSWERS
    for choices in READINGS:
        used = features.weight[:, begin : begin + len(choices)].abs().sum((1, 2)) > 0
        assert used.sum() == 1
        begin += len(choices)
    read = features(states)[..., -NUM_READINGS:].sum(1)
    wanted = readings_of([parse_caption(caption) for caption in CAPTIONS])
    # Random states tell few captions apart, but those they were fitted to.
    assert np.corrcoef(read.flatten(), (wanted - wanted.mean(0)).flatten())[0, 1] > 0.3


def test_the_tokens_that_know_an_answer_are_those_that_vote() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randint(4, (200,), generator=generator)
    votes = torch.randn(200, 6, 4, generator=generator)
    votes[torch.arange(200), 2, wanted] += 2.0
    votes[torch.arange(200), 4, wanted] += 1.0
    votes[torch.arange(200), 5, wanted] -= 2.0
    weights = weigh_votes(Votes(votes[:100], wanted[:100]), Votes(votes[100:], wanted[100:]))
    assert weights.argmax() == 2 and weights[4] > 3 * weights[[0, 1, 3]].max()
    assert weights.min() == 0 and weights[5] == 0


def test_what_a_language_model_takes_for_something_else_is_corrected_for_new_words_too() -> None:
    """Votes for the last word go astray; what it is taken for is told apart in the states."""
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randint(4, (400,), generator=generator)
    seen = torch.where(wanted == 3, 0, wanted)
    votes = torch.nn.functional.one_hot(seen, 4)[:, None] + 0.3 * torch.randn(400, 2, 4, generator=generator)
    states = torch.randn(400, 64, generator=generator) + 5.0
    states[:, :32] += (wanted == 3)[:, None].float()
    parts = [slice(0, 100), slice(100, 200), slice(200, 400)]
    chosen, trained, new = (Votes(votes[part], wanted[part]) for part in parts)
    counts = weigh_votes(chosen, trained)
    assert ((new.values * counts[:, None]).sum(1).argmax(1) == new.wanted).float().mean() < 0.8
    counts, correction = correct_votes(chosen, trained, states[parts[0]], states[parts[1]])
    answers = (new.values * counts[:, None]).sum(1) + correction(states[parts[2]])
    assert (answers.argmax(1) == new.wanted).float().mean() > 0.9
    assert new.loss(counts, correction(states[parts[2]])) < new.loss(counts)


def test_a_language_model_is_trusted_by_its_own_answers_alone() -> None:
    """What corrects answers can name trained words for any language model, also one of random weights."""
    _, features = features_of(24)
    assert not features.trusted


def test_answers_are_compared_with_those_to_words_that_are_not_trained_on() -> None:
    """Whatever a language model is inclined to answer, each word is as likely over the words to choose by."""
    torch.manual_seed(0)
    known = [parse_caption(caption) for caption in CHOSEN]
    unseen = [number // 8 for number in range(len(CHOSEN))]
    states = torch.randn(len(CHOSEN), TOKENS, 24)
    rows = [[torch.randn(len(words), 24)] for words in WORDS]
    inclined = Examples(states + 5 * rows[1][0][0], known, unseen)
    answers = [
        fit_features(Examples(each.states, known, [-1] * len(known)), each, rows)(each.states)[..., :NUM_ANSWERS]
        for each in (Examples(states, known, unseen), inclined)
    ]
    assert torch.allclose(*answers, atol=1e-2)


def test_values_are_numbers_of_words() -> None:
    assert values_of([parse_caption(CAPTIONS[0])]).tolist() == [[0, 0, 0, 1]]


def test_a_second_object_that_is_not_there_has_no_reading() -> None:
    one, two = readings_of([parse_caption(caption) for caption in CAPTIONS[:2]])
    assert one.sum() == 4 and two.sum() == 8
    assert one[-1] == 0 and two[-1] == 1
