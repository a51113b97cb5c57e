"""Fixed readings of states, and adapters that are trained on them and folded into a model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from picturebook.models.question_features import (
    NUM_ANSWERS,
    NUM_READINGS,
    READINGS,
    WORDS,
    Examples,
    QuestionAdapters,
    QuestionFeatures,
    fit_features,
    readings_of,
    values_of,
    weigh_votes,
)
from picturebook.world.caption_grammar import parse_caption
from picturebook.world.scene import COLOURS, KINDS
from tests.small_model import small_config, small_processor

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


@pytest.fixture(scope="module")
def model() -> GillForConditionalGeneration:
    processor = small_processor(num_image_output_tokens=TOKENS)
    torch.manual_seed(0)
    return GillForConditionalGeneration(small_config(processor, distinct_image_states=True)).eval()


def test_folded_adapters_map_states_as_the_trained_ones_map_features(model: GillForConditionalGeneration) -> None:
    states, features = features_of(model.config.embedding_dim)
    adapters = QuestionAdapters(model, features)
    adapters.fold(model, features)
    with torch.no_grad():
        folded = model.image_outputs(states.float())
        values = features(states)
        mapped = adapters.map(values).tensors["prompt_embeds"]
    assert torch.allclose(folded["conditioning"]["prompt_embeds"], mapped, atol=1e-3)
    assert torch.allclose(folded["retrieval_embeds"], adapters.retrieval_embeds(values), atol=1e-3)


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
    asked = torch.arange(200) < 100
    weights = weigh_votes(votes, wanted, asked, votes[~asked], wanted[~asked])
    assert weights.argmax() == 2 and weights[4] > 3 * weights[[0, 1, 3]].max()
    assert weights.min() == 0 and weights[5] == 0


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


def test_readings_of_the_only_object_are_hidden_while_training(model: GillForConditionalGeneration) -> None:
    states, features = features_of(24)
    adapters, values = QuestionAdapters(model, replace(features, trusted=True)), features(states)
    adapters._READING_NOISE = 0.0
    one = torch.ones(len(values), dtype=torch.bool)
    readings = values[..., NUM_ANSWERS:]
    changed = adapters.augment(values, one, torch.Generator().manual_seed(0))[..., NUM_ANSWERS:]
    assert (changed[..., :-1] != readings[..., :-1]).any()
    assert (changed[..., -1] >= readings[..., -1]).all() and (changed[..., -1] != readings[..., -1]).any()
    kept = adapters.augment(values, ~one, torch.Generator().manual_seed(0))[..., NUM_ANSWERS:]
    assert torch.equal(kept, readings)


def test_nothing_is_hidden_where_answers_are_not_trusted(model: GillForConditionalGeneration) -> None:
    states, features = features_of(24)
    adapters, values = QuestionAdapters(model, replace(features, trusted=False)), features(states)
    adapters._READING_NOISE = 0.0
    one = torch.ones(len(values), dtype=torch.bool)
    assert torch.equal(adapters.augment(values, one, torch.Generator().manual_seed(0)), values)


def test_the_likeliest_answer_is_that_of_most_votes(model: GillForConditionalGeneration) -> None:
    _, features = features_of(24)
    adapters = QuestionAdapters(model, replace(features, trusted=True))
    values = torch.zeros(2, TOKENS, NUM_ANSWERS + NUM_READINGS)
    # The third kind at two tokens, against the first one at another; the second colour.
    values[0, 0, 2], values[0, 1, 2], values[0, 2, 0], values[0, 3, len(KINDS) + 1] = 1.0, 1.0, 1.5, 0.1
    assert adapters.likeliest(values).tolist() == [[2, 1, 0, 0], [0, 0, 0, 0]]
    changed = adapters.augment(values, torch.tensor([True, True]), torch.Generator().manual_seed(0))
    assert changed.shape == values.shape and not torch.equal(changed, values)


def test_a_place_that_is_read_surely_is_likelier_than_votes(model: GillForConditionalGeneration) -> None:
    _, features = features_of(24)
    adapters = QuestionAdapters(model, features)
    values = torch.zeros(2, TOKENS, NUM_ANSWERS + NUM_READINGS)
    first_place = len(KINDS) + len(COLOURS)
    values[:, 0, first_place + 1] = 1.0
    # The third place is read, surely and less so; readings of other attributes are not asked.
    values[0, 2, NUM_ANSWERS + first_place + 2], values[1, 2, NUM_ANSWERS + first_place + 2] = 0.6, 0.2
    values[:, 1, NUM_ANSWERS + 3] = 1.0
    assert adapters.likeliest(values).tolist() == [[0, 0, 2, 0], [0, 0, 1, 0]]


def test_the_only_place_is_read_more_weakly_while_training(model: GillForConditionalGeneration) -> None:
    _, features = features_of(24)
    adapters = QuestionAdapters(model, replace(features, trusted=True))
    adapters._READING_NOISE = 0.0
    place = NUM_ANSWERS + len(KINDS) + len(COLOURS)
    values = torch.zeros(64, TOKENS, NUM_ANSWERS + NUM_READINGS)
    values[:, 0, place] = 1.0
    changed = adapters.augment(values, torch.ones(64, dtype=torch.bool), torch.Generator().manual_seed(0))[:, 0, place]
    assert changed.min() < 0.2 and changed.max() > 0.9
