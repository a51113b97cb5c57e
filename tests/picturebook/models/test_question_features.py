"""Fixed readings of states, and adapters that are trained on them and folded into a model."""

import numpy as np
import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from picturebook.models.question_features import (
    NUM_READINGS,
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


def features_of(width: int, tokens: int) -> tuple[torch.Tensor, QuestionFeatures]:
    torch.manual_seed(0)
    states = torch.randn(len(CAPTIONS), tokens, width).half()
    known = [parse_caption(caption) for caption in CAPTIONS]
    return states, fit_features(states, known, [torch.randn(len(words), width) for words in WORDS])


@pytest.fixture(scope="module")
def model() -> GillForConditionalGeneration:
    processor = small_processor(num_image_output_tokens=8)
    torch.manual_seed(0)
    return GillForConditionalGeneration(small_config(processor, distinct_image_states=True)).eval()


def test_folded_adapters_map_states_as_the_trained_ones_map_features(model: GillForConditionalGeneration) -> None:
    states, features = features_of(model.config.embedding_dim, 8)
    adapters = QuestionAdapters(model, features)
    adapters.fold(model, features)
    with torch.no_grad():
        folded = model.image_outputs(states.float())
        values = features(states)
        mapped = adapters.map(values).tensors["prompt_embeds"]
    assert torch.allclose(folded["conditioning"]["prompt_embeds"], mapped, atol=1e-3)
    assert torch.allclose(folded["retrieval_embeds"], adapters.retrieval_embeds(values), atol=1e-3)


def test_readings_are_the_sum_over_the_tokens() -> None:
    states, features = features_of(24, 8)
    read = features(states)[..., -NUM_READINGS:].sum(1)
    wanted = readings_of([parse_caption(caption) for caption in CAPTIONS])
    # Random states tell few captions apart, but those they were fitted to.
    assert np.corrcoef(read.flatten(), (wanted - wanted.mean(0)).flatten())[0, 1] > 0.3


def test_a_second_object_that_is_not_there_has_no_reading() -> None:
    one, two = readings_of([parse_caption(caption) for caption in CAPTIONS[:2]])
    assert one.sum() == 4 and two.sum() == 8
    assert one[-1] == 0 and two[-1] == 1


def test_readings_of_the_only_object_are_hidden_while_training(model: GillForConditionalGeneration) -> None:
    states, features = features_of(24, 8)
    adapters, values = QuestionAdapters(model, features), features(states)
    one = torch.ones(len(values), dtype=torch.bool)
    changed = adapters.augment(values, one, torch.Generator().manual_seed(0))
    shift = changed[..., features.num_answers :] - values[..., features.num_answers :]
    assert shift[..., :14].abs().sum() > 0 and shift[..., 14:].abs().sum() == 0
    kept = adapters.augment(values, ~one, torch.Generator().manual_seed(0))
    assert torch.equal(kept[..., features.num_answers :], values[..., features.num_answers :])
