"""Loading in every layout: what reaches the backbones, what leaves the adapters alone, and what is refused."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.utils.quantization_config import QuantizationConfigMixin

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.pretrained_gill import ADAPTERS, _quantize_language_model_only
from tests.small_model import small_config, small_model, small_processor

LAYOUTS = ("self-contained", "by reference")


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.fixture(scope="module")
def model(processor):
    return small_model(processor)


@pytest.fixture(scope="module")
def repositories(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repositories")
    model.save_pretrained(folder / "self-contained")
    model.language_model.save_pretrained(folder / "language")
    model.vision_model.save_pretrained(folder / "vision")
    ids = {"language_model_id": str(folder / "language"), "vision_model_id": str(folder / "vision")}
    config = GillConfig.from_dict({**model.config.to_dict(), **ids})
    referring = GillForConditionalGeneration(config, defer_backbones=True)
    referring.attach_backbones(model.language_model, model.vision_model)
    referring.load_state_dict(model.state_dict())
    referring.save_pretrained(folder / "by reference")
    return folder


def answer(model, processor):
    options = {"max_new_tokens": 6, "min_text_tokens": 2, "image_token_scale": 1e5, "do_sample": False}
    return model.generate(**processor(["the dog"]), return_dict_in_generate=True, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backbones_are_frozen_however_they_are_loaded(repositories, layout):
    for load in (GillForConditionalGeneration, AutoModelForMultimodalLM):
        loaded = load.from_pretrained(repositories / layout)
        assert type(loaded) is GillForConditionalGeneration
        trainable = {name.split(".")[0] for name, weight in loaded.named_parameters() if weight.requires_grad}
        assert trainable == {*ADAPTERS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_attention_implementation_reaches_both_backbones_and_the_masks(repositories, processor, model, layout):
    loaded = GillForConditionalGeneration.from_pretrained(repositories / layout, attn_implementation="eager")
    parts = (loaded.language_model.config, loaded.vision_model.config, loaded.config, loaded.config.text_config)
    assert [part._attn_implementation for part in parts] == ["eager"] * 4
    assert answer(loaded, processor).sequences.tolist() == answer(model, processor).sequences.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_a_dtype_survives_saving_and_loading(repositories, layout, dtype, tmp_path):
    loaded = GillForConditionalGeneration.from_pretrained(repositories / layout, dtype=dtype)
    loaded.save_pretrained(tmp_path)
    again = GillForConditionalGeneration.from_pretrained(tmp_path)
    assert {weight.dtype for weight in again.parameters()} == {dtype}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_offloading_to_disk_leaves_the_adapters_in_memory(repositories, processor, model, layout, tmp_path):
    loaded = GillForConditionalGeneration.from_pretrained(
        repositories / layout, device_map={"": "disk"}, offload_folder=tmp_path
    )
    assert loaded.get_input_embeddings().weight.is_meta
    assert not any(weight.is_meta for name, weight in loaded.named_parameters() if name.startswith(ADAPTERS))
    found, expected = answer(loaded, processor), answer(model, processor)
    assert found.sequences.tolist() == expected.sequences.tolist()
    torch.testing.assert_close(found.conditioning, expected.conditioning)


def test_the_embedding_alone_can_be_offloaded_to_disk(repositories, processor, model, tmp_path):
    loaded = GillForConditionalGeneration.from_pretrained(
        repositories / "by reference",
        device_map={"": "cpu", "model.decoder.embed_tokens": "disk"},
        offload_folder=tmp_path,
    )
    assert loaded.get_input_embeddings().weight.is_meta
    assert not loaded.language_model.get_decoder().layers[0].fc1.weight.is_meta
    assert answer(loaded, processor).sequences.tolist() == answer(model, processor).sequences.tolist()


def test_quantization_of_a_self_contained_repository_leaves_all_but_the_language_model_alone(processor):
    class Quantization(QuantizationConfigMixin):
        def __init__(self, modules_to_not_convert=None):
            self.modules_to_not_convert = modules_to_not_convert

    config = small_config(processor)
    for given in (None, ["model.decoder.layers.0"]):
        original = Quantization(given)
        changed = _quantize_language_model_only(original, GillForConditionalGeneration, config)
        assert {*ADAPTERS, "vision_model"} < {*changed.modules_to_not_convert}
        assert given is None or {*given} < {*changed.modules_to_not_convert}
        assert original.modules_to_not_convert == given
    with pytest.raises(ValueError, match="would quantize the adapters"):
        _quantize_language_model_only(QuantizationConfigMixin("other"), GillForConditionalGeneration, config)


@pytest.fixture(params=LAYOUTS)
def weights(request, repositories, tmp_path):
    """A copy of a repository, and what changes its adapters."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(repositories / request.param, folder)

    def change(edit):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    return change


def test_missing_adapter_weights_are_named(weights):
    folder = weights(lambda tensors: [tensors.pop(name) for name in ("visual_projection.bias", "logit_scale")])
    with pytest.raises(OSError, match=r"lack 2 adapter tensors .*: logit_scale, visual_projection.bias"):
        GillForConditionalGeneration.from_pretrained(folder)


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_adapter_weights_that_are_not_finite_are_named(weights, value):
    folder = weights(lambda tensors: tensors["decision_head.weight"][0].fill_(value))
    with pytest.raises(OSError, match=r"NaN or infinite values in decision_head.weight"):
        GillForConditionalGeneration.from_pretrained(folder)


def test_pickled_adapters_are_not_opened(weights):
    folder = weights(lambda tensors: None)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        GillForConditionalGeneration.from_pretrained(folder)


def test_the_text_configuration_is_written_through(processor):
    config = small_config(processor)
    view = config.get_text_config()
    assert isinstance(view, type(config.text_config))
    assert (view.vocab_size, config.text_config.vocab_size) == (config.vocab_size, config.num_language_model_rows)
    view.dropout = 0.25
    assert config.text_config.dropout == config.get_text_config().dropout == 0.25
    assert GillConfig.from_dict(config.to_dict()).text_config.dropout == 0.25
    assert copy.deepcopy(view).vocab_size == config.vocab_size
    config.text_config.use_cache = False
    assert view.use_cache is False
    assert view.to_dict()["vocab_size"] == view.to_diff_dict()["vocab_size"] == config.vocab_size
    assert "OPTConfig" in repr(view)
    assert AutoModelForCausalLM.from_config(view).get_input_embeddings().num_embeddings == config.vocab_size


@pytest.mark.parametrize("shard", ("../other/model.safetensors", "/etc/passwd", "pytorch_model.bin", 5))
def test_an_index_opens_nothing_but_safetensors_beside_it(tmp_path, shard):
    model = small_model(small_processor())
    model.save_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "gill", max_shard_size="20KB")
    assert GillForConditionalGeneration.from_pretrained(tmp_path / "gill").config.vocab_size == model.config.vocab_size
    index = tmp_path / "gill" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][next(iter(content["weight_map"]))] = shard
    index.write_text(json.dumps(content))
    with pytest.raises(OSError, match=r"index.json' names the shard .*expected a safetensors file beside it"):
        GillForConditionalGeneration.from_pretrained(tmp_path / "gill")
    for damaged in ('{"weight_map": []}', "[]", "{"):
        index.write_text(damaged)
        with pytest.raises(OSError, match=r"index.json' is damaged"):
            GillForConditionalGeneration.from_pretrained(tmp_path / "gill")
