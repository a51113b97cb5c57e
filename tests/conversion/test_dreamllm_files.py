"""The weights and settings of a DreamLLM release are read in every layout, and never run."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from conversion import ConversionError
from conversion.dreamllm import read_settings, read_tokenizer
from conversion.dreamllm_files import DIFFUSION, QUERIES, VISION, read_weights


@pytest.fixture
def release(dream_world: Path, tmp_path: Path) -> Path:
    """A copy of the release to change, in the layout `split`."""
    return Path(shutil.copytree(dream_world / "dreamllm", tmp_path / "release"))


def join(release: Path, change: str | None = None) -> None:
    """Make the layout `joint` of it: all tensors in one pickle, beside the plugins' files."""
    tensors = load_file(release / "model.safetensors")
    (release / "model.safetensors").unlink()
    for plugin, prefix in ((QUERIES, "model."), (VISION, "model."), (DIFFUSION, "")):
        own = torch.load(release / f"{plugin}.bin", weights_only=True)
        tensors |= {f"{prefix}{plugin}.{name}": tensor for name, tensor in own.items()}
    if change is not None:
        tensors[change] = tensors[change] + 1e-3
    torch.save(tensors, release / "pytorch_model.bin")


def equal(first, second) -> bool:
    same = first.language_model.keys() == second.language_model.keys() and all(
        torch.equal(first.language_model[name], second.language_model[name]) for name in first.language_model
    )
    return same and all(
        first.plugins[plugin].keys() == second.plugins[plugin].keys()
        and all(torch.equal(tensor, second.plugins[plugin][name]) for name, tensor in first.plugins[plugin].items())
        for plugin in first.plugins
    )


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def edit_plugin(release: Path, plugin: str, **options) -> None:
    config = json.loads((release / "config.json").read_text())
    config["plugins_init_kwargs"][plugin] |= options
    (release / "config.json").write_text(json.dumps(config))


def shards(release: Path, suffix: str) -> None:
    tensors = load_file(release / "model.safetensors")
    (release / "model.safetensors").unlink()
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{suffix}"
        save = save_file if suffix == "safetensors" else torch.save
        save({name: tensors[name] for name in part}, release / file)
        weight_map |= dict.fromkeys(part, file)
    (release / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_both_layouts_and_shards_hold_the_same_tensors(dream_world, tmp_path) -> None:
    split = read_weights(dream_world / "dreamllm")
    assert len(split.language_model) == 21
    assert sorted(split.left_out) == [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in (0, 1)]
    for number, change in enumerate(
        (join, lambda folder: shards(folder, "safetensors"), lambda folder: shards(folder, "bin"))
    ):
        folder = Path(shutil.copytree(dream_world / "dreamllm", tmp_path / str(number)))
        change(folder)
        assert equal(read_weights(folder), split)


def test_a_sharded_run_may_have_saved_everything_in_one_place(release, dream_world) -> None:
    join(release)
    for plugin in (QUERIES, VISION, DIFFUSION):
        (release / f"{plugin}.bin").unlink()
    assert equal(read_weights(release), read_weights(dream_world / "dreamllm"))


@pytest.mark.parametrize(
    "name",
    [
        "model.dream_embedding.dream_queries",
        "model.clip_vision_embedding.projector.projector.bias",
        "stable_diffusion_head.projector.projector.weight",
        "stable_diffusion_head.unet.conv_in.bias",
    ],
)
def test_two_copies_that_differ_are_refused_by_name(release, name) -> None:
    join(release, change=name)
    with pytest.raises(ConversionError, match=rf"{name} differs between pytorch_model\.bin and \w+\.bin"):
        read_weights(release)


def test_a_copy_that_was_rounded_is_no_difference_and_the_unrounded_one_is_read(release, dream_world) -> None:
    join(release)
    whole = torch.load(release / "pytorch_model.bin", weights_only=True)
    torch.save({name: tensor.bfloat16() for name, tensor in whole.items()}, release / "pytorch_model.bin")
    queries = read_weights(release).plugins[QUERIES]["dream_queries"]
    assert torch.equal(queries, read_weights(dream_world / "dreamllm").plugins[QUERIES]["dream_queries"])


def test_older_runs_saved_what_they_trained(release, dream_world) -> None:
    expected = read_weights(dream_world / "dreamllm").plugins
    older = {
        QUERIES: ("dream_queries.pt", torch.nn.Parameter(expected[QUERIES]["dream_queries"].clone())),
        VISION: ("clip_vision_model_projector.pt", None),
        DIFFUSION: ("unet_projector.pt", None),
    }
    for plugin, (file, content) in older.items():
        (release / f"{plugin}.bin").unlink()
        projector = {
            name.removeprefix("projector."): tensor
            for name, tensor in expected[plugin].items()
            if name.startswith("projector.")
        }
        torch.save(projector if content is None else content, release / file)
    found = read_weights(release).plugins
    assert {plugin: sorted(own) for plugin, own in found.items()} == {
        QUERIES: ["dream_queries"],
        VISION: ["projector.projector.bias", "projector.projector.weight"],
        DIFFUSION: ["projector.projector.weight"],
    }
    assert all(torch.equal(own[name], expected[plugin][name]) for plugin, own in found.items() for name in own)


# --- files from strangers --------------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_nothing_in_a_pickle_is_executed(release, capsys) -> None:
    (release / "training_args.bin").write_bytes(pickle.dumps(Harmful()))
    assert "not read" in read_weights(release).left_out["training_args.bin"]
    torch.save({"dream_queries": Harmful()}, release / "dream_embedding.bin")
    with pytest.raises(ConversionError, match="nothing in it was executed"):
        read_weights(release)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "shard, reason",
    [("../model.safetensors", "same folder"), ("/etc/passwd", "same folder"), ("model-9.safetensors", "is missing")],
)
def test_an_index_names_files_of_its_folder_alone(release, shard, reason) -> None:
    shards(release, "safetensors")
    path = release / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(ConversionError, match=reason):
        read_weights(release)


def test_shards_that_lack_a_tensor_of_the_index_are_refused(release) -> None:
    shards(release, "bin")
    path = release / "pytorch_model-00001-of-00002.bin"
    tensors = torch.load(path, weights_only=True)
    tensors.pop("model.norm.weight", None) if "model.norm.weight" in tensors else tensors.pop("lm_head.weight")
    torch.save(tensors, path)
    with pytest.raises(ConversionError, match="1 tensors are in no shard"):
        read_weights(release)


def test_truncated_files_are_named(release) -> None:
    for name in ("model.safetensors", "dream_embedding.bin"):
        path = release / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ConversionError, match=name):
            read_weights(release)
        path.write_bytes(whole)


# --- settings --------------------------------------------------------------------------------------------------------


def test_classes_and_paths_of_the_configuration_are_data(release) -> None:
    for plugin in (QUERIES, VISION, DIFFUSION):
        edit_plugin(release, plugin, _target_="os.system", pretrained_model_name_or_path="/does/not/exist")
    settings = read_settings(release)
    assert "never run" in settings.left_out[f"{QUERIES}._target_"]
    assert settings.vision_model_id == "clip-dream"


def test_ids_are_those_of_the_configuration(release) -> None:
    config = json.loads((release / "config.json").read_text())
    ids = config["special_tokens2ids_dict"]["additional_special_tokens"]
    ids["<im_start>"], ids["<dream>"] = ids["<dream>"], ids["<im_start>"]
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"added_tokens\.json gives '<im_start>'"):
        read_tokenizer(release, read_settings(release), list(range(700, 708)))
    for name in ("added_tokens.json", "tokenizer_config.json"):
        (release / name).unlink()
    tokenizer = read_tokenizer(release, read_settings(release), list(range(700, 708)))
    assert tokenizer.convert_tokens_to_ids(["<im_start>", "<dream>"]) == [ids["<im_start>"], ids["<dream>"]]


def test_a_projector_of_several_layers_and_a_norm_are_read(release) -> None:
    options = {"projector_type": "mlp", "projector_depth": 2, "use_additional_post_layernorm": True}
    edit_plugin(release, VISION, **options, select_layer=-1)
    settings = read_settings(release)
    assert (settings.visual_projection_depth, settings.visual_projection_norm) == (2, True)
    assert settings.vision_feature_layer == -1


@pytest.mark.parametrize(
    "plugin, options, reason",
    [
        (VISION, {"projector_type": "conv"}, "projector_type is 'conv'"),
        (VISION, {"projector_depth": 3}, "projector_depth 3"),
        (VISION, {"use_additional_post_layernorm": "yes"}, "use_additional_post_layernorm"),
        (VISION, {"select_layer": "last"}, "select_layer"),
        (DIFFUSION, {"projector_type": "mlp", "projector_depth": 2}, "projector_type is 'mlp'"),
        (DIFFUSION, {"embed_hidden_size": 64}, "embed_hidden_size is 64"),
        (QUERIES, {"num_dream_queries": 0}, "num_dream_queries"),
        (QUERIES, {"shuffle_queries": True}, "unknown option 'shuffle_queries'"),
    ],
)
def test_options_that_change_the_answer_are_refused_by_name(release, plugin, options, reason) -> None:
    edit_plugin(release, plugin, **options)
    with pytest.raises(ConversionError, match=reason):
        read_settings(release)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"model_type": "dreamllm_sdxl"}, "Stable Diffusion XL"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"plugins_type": {"stable_diffusion_xl_head": "head"}}, "Stable Diffusion XL"),
        ({"plugins_type": {"audio_head": "head"}}, "unknown plugin 'audio_head'"),
        ({"plugins_type": {}}, "lacks the plugin clip_vision_embedding"),
        ({"special_tokens2ids_dict": {"<s>": 1}}, "special_tokens2ids_dict lacks </s>"),
        ({"special_tokens2ids_dict": []}, "special_tokens2ids_dict"),
    ],
)
def test_settings_that_cannot_be_converted_are_refused_by_name(release, changes, reason) -> None:
    edit(release / "config.json", **changes)
    with pytest.raises(ConversionError, match=reason):
        read_settings(release)


@pytest.mark.parametrize("changes, reason", [({"legacy": False}, "legacy"), ({"add_eos_token": True}, "add_eos_token")])
def test_tokenizers_of_another_rule_are_refused(release, changes, reason) -> None:
    edit(release / "tokenizer_config.json", **changes)
    with pytest.raises(ConversionError, match=reason):
        read_tokenizer(release, read_settings(release), list(range(700, 708)))
