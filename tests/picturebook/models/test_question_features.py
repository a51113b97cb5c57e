"""Fixed readings of states, and adapters that are trained on them and folded into a model."""

import numpy as np
import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from picturebook.models.question_features import (
    NUM_ANSWERS,
    NUM_READINGS,
    READINGS,
    VOTERS,
    WORDS,
    QuestionAdapters,
    QuestionFeatures,
    fit_features,
    readings_of,
)
from picturebook.world.caption_grammar import parse_caption
from tests.small_model import small_config, small_processor

CAPTIONS = (
    "a red house on the left at night",
    "a blue boat at the top and a green cat on the right at sea",
    "a pink fish at the bottom by day",
    "a yellow tree on the right in the snow",
) * 5
TOKENS = 31


def features_of(width: int, tokens: int = TOKENS) -> tuple[torch.Tensor, QuestionFeatures]:
    torch.manual_seed(0)
    states = torch.randn(len(CAPTIONS), tokens, width).half()
    known = [parse_caption(caption) for caption in CAPTIONS]
    return states, fit_features(states, known, [torch.randn(len(words), width) for words in WORDS])


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


def test_an_attribute_is_answered_at_the_tokens_that_vote() -> None:
    _, features = features_of(24)
    begin = 0
    for words, voters in zip(WORDS, VOTERS, strict=True):
        used = features.weight[:, begin : begin + len(words)].abs().sum((1, 2)).nonzero()[:, 0]
        assert set(used.tolist()) == set(voters)
        begin += len(words)


def test_a_second_object_that_is_not_there_has_no_reading() -> None:
    one, two = readings_of([parse_caption(caption) for caption in CAPTIONS[:2]])
    assert one.sum() == 4 and two.sum() == 8
    assert one[-1] == 0 and two[-1] == 1


def test_readings_of_the_only_object_are_hidden_while_training(model: GillForConditionalGeneration) -> None:
    states, features = features_of(24)
    adapters, values = QuestionAdapters(model, features), features(states)
    adapters._READING_NOISE = 0.0
    one = torch.ones(len(values), dtype=torch.bool)
    readings = values[..., NUM_ANSWERS:]
    changed = adapters.augment(values, one, torch.Generator().manual_seed(0))[..., NUM_ANSWERS:]
    assert (changed[..., :-1] != readings[..., :-1]).any()
    assert (changed[..., -1] >= readings[..., -1]).all() and (changed[..., -1] != readings[..., -1]).any()
    kept = adapters.augment(values, ~one, torch.Generator().manual_seed(0))[..., NUM_ANSWERS:]
    assert torch.equal(kept, readings)


def test_the_own_answer_stays_the_likeliest_while_training(model: GillForConditionalGeneration) -> None:
    _, features = features_of(24)
    adapters = QuestionAdapters(model, features)
    adapters._NOISE = 0.0
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(len(WORDS[0]), (400,), generator=generator)
    values = torch.zeros(400, TOKENS, NUM_ANSWERS + NUM_READINGS)
    for token in VOTERS[0]:
        values[torch.arange(400), token, numbers] = 5.0
    changed = adapters.augment(values, torch.ones(400, dtype=torch.bool), generator)
    assert not torch.equal(changed, values)
    votes = changed[..., : len(WORDS[0])].sum(1)
    assert (votes.argmax(1) == numbers).float().mean() > 0.9
