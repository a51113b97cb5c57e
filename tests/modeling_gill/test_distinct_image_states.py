"""Heads that read all `[IMG]` states, and a decision that reads the conditioning."""

from pathlib import Path

import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from tests.small_model import small_config, small_processor


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.fixture(scope="module")
def model(processor):
    config = small_config(processor, distinct_image_states=True, decision_input="conditioning")
    torch.manual_seed(0)
    return GillForConditionalGeneration(config).eval()


def test_all_states_are_read_by_the_retrieval_head_and_projected_one_by_one(model, processor):
    with torch.no_grad():
        out = model(**processor(["a cat", "two dogs in the snow"], add_img_tokens=True))
    states = out.img_hidden_states
    assert torch.allclose(out.retrieval_embeds, model.text_retrieval_head(states.flatten(1)))
    changed = states.clone()
    changed[:, -1] += 1
    assert not torch.allclose(model.image_outputs(changed)["retrieval_embeds"], out.retrieval_embeds)
    swapped = model.mapper(states.flip(1), model.img_embeddings.weight.flip(0)).tensors["prompt_embeds"]
    assert not torch.allclose(swapped, out.conditioning["prompt_embeds"], atol=1e-3)


def test_the_decision_reads_the_conditioning(model, processor):
    with torch.no_grad():
        out = model(**processor(["a cat"], add_img_tokens=True))
        expected = model.decision_head(out.conditioning["prompt_embeds"].flatten(1))
    assert torch.allclose(out.decision_logits, expected)


def test_prompts_alone_are_embedded_as_in_a_whole_pass(model, processor):
    with torch.no_grad():
        out = model(**processor(["a cat", "two dogs in the snow"], add_img_tokens=True))
        embeds = model.get_text_retrieval_embeddings(**processor(["a cat", "two dogs in the snow"]))
    assert torch.allclose(out.retrieval_embeds, embeds, atol=1e-5)


def test_a_saved_model_answers_the_same(model, processor, tmp_path: Path):
    model.save_pretrained(tmp_path)
    again = GillForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = processor(["a cat"], add_img_tokens=True)
    with torch.no_grad():
        one, other = model(**batch), again(**batch)
    assert torch.equal(one.decision_logits, other.decision_logits)
    assert torch.equal(one.conditioning["prompt_embeds"], other.conditioning["prompt_embeds"])


def test_by_default_the_first_state_alone_is_read(processor):
    config = small_config(processor)
    model = GillForConditionalGeneration(config).eval()
    states = torch.randn(2, config.num_image_output_tokens, config.embedding_dim)
    changed = states.clone()
    changed[:, 1:] += 1
    one, other = model.image_outputs(states), model.image_outputs(changed)
    assert torch.equal(one["retrieval_embeds"], other["retrieval_embeds"])
    assert torch.equal(one["decision_logits"], other["decision_logits"])


@pytest.mark.parametrize(
    "fields, named",
    [({"decision_input": "words"}, "words"), ({"decision_input": "conditioning", "mapper_type": None}, "mapper")],
)
def test_a_decision_that_cannot_be_read_is_refused(processor, fields, named):
    with pytest.raises(ValueError, match=named):
        small_config(processor, **fields)
