"""The conditioning of an image generator: read from a configuration as it was written, refused where it is wrong."""

import json

import pytest
import torch

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.conditioning_gill import ConditioningTensor, mask_of_lengths, read_conditioning, take_images
from tests.small_model import small_config, small_model, small_processor

SDXL = [{"name": "prompt_embeds", "length": 7, "dim": 12, "scale": 2.0}, {"name": "pooled", "length": None, "dim": 5}]
MASKED = [{"name": "prompt_embeds", "length": 6, "dim": 12, "mask_name": "prompt_attention_mask", "scale": 0.5}]
LISTS = [{"name": "prompt_embeds", "length": 6, "dim": 12, "layout": "list"}]
PLAIN = [{"name": "prompt_embeds", "length": 7, "dim": 12}]


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.mark.parametrize("entries", (SDXL, MASKED, LISTS))
def test_a_configuration_keeps_what_the_generator_takes(entries, processor, tmp_path):
    small_config(processor, conditioning=entries, conditioning_length=None, conditioning_dim=None).save_pretrained(
        tmp_path
    )
    assert GillConfig.from_pretrained(tmp_path).conditioning_tensors == read_conditioning(entries)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["conditioning"] == entries and "conditioning_length" not in written


@pytest.mark.parametrize("fields", ({"conditioning": PLAIN, "conditioning_length": None, "conditioning_dim": None}, {}))
def test_one_plain_tensor_is_written_as_two_numbers_that_older_versions_read(fields, processor, tmp_path):
    config = small_config(processor, **fields)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["conditioning_length"], written["conditioning_dim"]) == (7, 12) and "conditioning" not in written
    assert config.conditioning_tensors == (ConditioningTensor("prompt_embeds", 7, 12),)
    assert GillConfig.from_pretrained(tmp_path).conditioning_tensors == config.conditioning_tensors


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "a list of one or more"),
        ("prompt_embeds", "a list of one or more"),
        ([7], "must be a dict"),
        ([{"name": "prompt_embeds", "dim": 3}], "expected .*length"),
        ([{**PLAIN[0], "width": 3}], "has the fields .*width"),
        ([{**PLAIN[0], "dim": 0}], "`dim` of `prompt_embeds` must be a positive integer, got 0"),
        ([{**PLAIN[0], "dim": True}], "`dim`"),
        ([{**PLAIN[0], "length": "7"}], "`length` of `prompt_embeds`"),
        ([{**PLAIN[0], "name": "a.b"}], "argument's name"),
        ([{**PLAIN[0], "name": "keys"}], "argument's name"),
        ([{**PLAIN[0], "name": None}], "argument's name"),
        ([{**PLAIN[0], "mask_name": 3}], "`mask_name`"),
        ([{**PLAIN[0], "mask_dtype": "nn"}], "`mask_dtype`"),
        ([{**PLAIN[0], "layout": "ragged"}], "`layout`"),
        ([{**PLAIN[0], "scale": 0}], "`scale`"),
        ([{**PLAIN[0], "scale": float("nan")}], "`scale`"),
        ([{"name": "pooled", "length": None, "dim": 3, "mask_name": "mask"}], "neither a mask"),
        (PLAIN * 2, "different names"),
    ],
)
def test_a_wrong_specification_is_refused_with_the_field_named(entries, message, processor):
    with pytest.raises(ValueError, match=message):
        small_config(processor, conditioning=entries, conditioning_length=None, conditioning_dim=None)


def test_two_specifications_that_contradict_each_other_are_refused(processor):
    with pytest.raises(ValueError, match="one or the other"):
        small_config(processor, conditioning=SDXL, conditioning_length=7)


@pytest.mark.parametrize("mapper_type", ("linear", "mlp", "encoder"))
def test_mappers_without_queries_refuse_several_tensors_by_name(mapper_type, processor):
    with pytest.raises(ValueError, match=f"'{mapper_type}' .* \\['prompt_embeds', 'pooled'\\]"):
        small_config(
            processor, mapper_type=mapper_type, conditioning=SDXL, conditioning_length=None, conditioning_dim=None
        )


def written(processor, **fields):
    model = small_model(processor, conditioning_length=None, conditioning_dim=None, **fields)
    return model, model(**processor(["the dog runs", "a cat"], add_img_tokens=True)).conditioning


def test_a_model_makes_all_tensors_and_a_mask_where_they_can_be_shorter(processor):
    _, conditioning = written(processor, conditioning=SDXL)
    assert {name: tuple(values.shape) for name, values in conditioning.items()} == {
        "prompt_embeds": (2, 7, 12),
        "pooled": (2, 5),
    }
    for entries, mask_name in ((MASKED, "prompt_attention_mask"), (LISTS, "prompt_embeds_mask")):
        _, conditioning = written(processor, conditioning=entries)
        mask = conditioning[mask_name]
        assert mask.dtype == torch.bool and mask.shape == (2, 6) and mask[:, 0].all()
        assert torch.equal(mask, mask_of_lengths(mask.sum(1), 6))
        assert not conditioning["prompt_embeds"][~mask].any() and conditioning["prompt_embeds"][mask].all()


def test_the_conditioning_leaves_the_model_with_its_gradient(processor):
    model, conditioning = written(processor, conditioning=MASKED)
    conditioning["prompt_embeds"].sum().backward()
    assert model.mapper.queries.grad.abs().sum() > 0


def test_the_output_is_in_units_of_the_scale(processor):
    (_, one), (_, four) = (written(processor, conditioning=[{**LISTS[0], "scale": scale}]) for scale in (1.0, 4.0))
    torch.testing.assert_close(one["prompt_embeds"] * 4, four["prompt_embeds"])


def test_a_model_of_several_tensors_is_saved_and_loaded(processor, tmp_path):
    model, conditioning = written(processor, conditioning=SDXL)
    model.save_pretrained(tmp_path)
    again = GillForConditionalGeneration.from_pretrained(tmp_path)
    found = again(**processor(["the dog runs", "a cat"], add_img_tokens=True)).conditioning
    torch.testing.assert_close(found, conditioning)
    torch.testing.assert_close(take_images(found, torch.tensor([1]))["pooled"], conditioning["pooled"][1:])
