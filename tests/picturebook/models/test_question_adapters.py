"""Adapters that are trained on readings of states, and folded into a model."""

from dataclasses import replace

import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from picturebook.models.question_adapters import QuestionAdapters
from picturebook.models.question_features import NUM_ANSWERS, NUM_READINGS
from picturebook.world.scene import KINDS
from tests.picturebook.models.test_question_features import TOKENS, features_of
from tests.small_model import small_config, small_processor


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
