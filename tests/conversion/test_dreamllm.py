"""`gill convert dreamllm` turns an original DreamLLM release into a repository that computes the same."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from conversion import ConversionError, convert
from conversion.dreamllm import read_settings
from conversion.dreamllm_files import DIFFUSION, QUERIES, VISION
from gill.cli import main
from modeling_gill import GillConfig, GillForConditionalGeneration
from pipeline_gill import GillPipeline
from tests.dream_fixtures import convert_dream

from .test_dreamllm_files import edit, edit_plugin

NUM_ADDED = 8
NEVER = ("[PAD]", "<image>", "<im_patch>", "<im_start>", "<im_end>", "<dream>", "<dream_end>")


@pytest.fixture
def world(dream_world: Path, tmp_path: Path) -> Path:
    """A copy of the seeded world to change."""
    return Path(shutil.copytree(dream_world, tmp_path / "world", ignore=shutil.ignore_patterns("pictures")))


def plain_language_model(world: Path, drop_rows: int = NUM_ADDED) -> str:
    """The language model that a release of stage I was trained for, without rows for the added tokens."""
    release = world / "dreamllm"
    config = read_settings(release).text_config
    config.vocab_size -= drop_rows
    tensors = {name: t for name, t in load_file(release / "model.safetensors").items() if "inv_freq" not in name}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][: config.vocab_size].clone()
    model = LlamaForCausalLM(config)
    model.load_state_dict(tensors)
    model.save_pretrained(world / "plain")
    return str(world / "plain")


def change_weights(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name] = tensors[name] + 1
    save_file(tensors, path, metadata={"format": "pt"})


def states(repository: Path) -> torch.Tensor:
    """States of an image after the same prompt."""
    model = GillForConditionalGeneration.from_pretrained(repository)
    prompt = AutoTokenizer.from_pretrained(repository)("a red house").input_ids
    ids = torch.tensor([prompt + model.config.image_output_run_ids])
    with torch.no_grad():
        return model(input_ids=ids, output_images=True).img_hidden_states


# --- the repository --------------------------------------------------------------------------------------------------


def test_the_repository_says_what_the_release_is(dream_repository, dream_world) -> None:
    config = GillConfig.from_pretrained(dream_repository)
    ids = AutoTokenizer.from_pretrained(dream_repository).get_vocab()
    assert config.language_model_id is None
    assert config.vision_model_id == str((dream_world / "clip-dream").resolve())
    assert config.image_generator_id == str((dream_world / "sd-dream").resolve())
    assert (config.vision_pooling, config.vision_feature_layer, config.num_visual_tokens) == ("patches", -2, 16)
    assert (config.mapper_type, config.conditioning_length, config.conditioning_dim) == ("projection", 8, 16)
    assert (config.retrieval_dim, config.use_decision_head) == (None, False)
    assert config.image_token_id == ids["<im_patch>"]
    assert config.image_output_run_ids == [
        ids[token] for token in ("<dream_start>", *(f"<dream_query_{i}>" for i in range(8)), "<dream_end>")
    ]
    names = load_file(dream_repository / "model.safetensors")
    assert len(names) == 25
    assert not any(name.startswith("vision_model.") for name in names)


def test_the_generator_is_named_also_where_it_is_nothing_but_folders(dream_repository, dream_world) -> None:
    assert not (dream_world / "sd-dream" / "model_index.json").exists()
    generator = GillPipeline.from_pretrained(dream_repository).image_generator
    assert type(generator.scheduler).__name__ == "DDPMScheduler"
    assert (generator.text_encoder, generator.tokenizer) == (None, None)
    assert not any((dream_repository / name).exists() for name in ("vae", "unet", "text_encoder", "tokenizer"))


def test_tokens_that_no_training_labels_are_never_written(dream_repository) -> None:
    ids = AutoTokenizer.from_pretrained(dream_repository).get_vocab()
    stored = json.loads((dream_repository / "generation_config.json").read_text())
    assert stored["suppress_tokens"] == sorted(ids[token] for token in NEVER)
    assert (stored["bos_token_id"], stored["eos_token_id"], stored["pad_token_id"]) == (1, 2, ids["[PAD]"])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_scheduler_is_ddpm_with_the_generators_numbers(world, prediction) -> None:
    path = world / "sd-dream" / "scheduler" / "scheduler_config.json"
    theirs = json.loads(path.read_text()) | {"prediction_type": prediction, "beta_start": 0.0007}
    path.write_text(json.dumps(theirs))
    out = convert_dream(world, world / "out")
    index = json.loads((out / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert (index["text_encoder"], index["tokenizer"]) == ([None, None], [None, None])
    assert (index["num_inference_steps"], index["guidance_scale"]) == (150, 2.0)
    assert index["negative_conditioning"] == "empty_prompt"
    ours = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    assert ours["_class_name"] == "DDPMScheduler"
    for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "steps_offset"):
        assert ours[name] == theirs[name]


def test_every_tensor_and_setting_is_in_the_report(world, capsys) -> None:
    (world / "dreamllm" / "training_args.bin").write_bytes(b"no pickle")
    convert_dream(world, world / "out")
    report = capsys.readouterr().out
    for line in (
        "dream_embedding.dream_queries",
        "stable_diffusion_head.unet (",
        "stable_diffusion_head.vae (",
        "clip_vision_embedding.clip_vision_model (",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
        "training_args.bin",
        "config.json: dream_embedding._target_",
        "config.json: loss_weight_vm",
        "verified: 25 tensors",
    ):
        assert line in report


def test_other_sizes_and_bfloat16(tmp_path) -> None:
    from tests.dream_fixtures import make_dream_checkpoint

    make_dream_checkpoint().write(str(tmp_path), seed=3, layout="joint", hidden=48, queries=5)
    options = {"vision_model": str(tmp_path / "clip-dream"), "image_generator": str(tmp_path / "sd-dream")}
    convert("dreamllm", tmp_path / "dreamllm", tmp_path / "out", verify=True, **options)
    config = GillConfig.from_pretrained(tmp_path / "out")
    assert (config.embedding_dim, config.num_image_output_tokens, config.conditioning_length) == (48, 5, 5)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}


def test_a_deep_comprehension_projector_with_a_norm_computes_as_the_authors(world, dream_arrays) -> None:
    path = world / "dreamllm" / "clip_vision_embedding.bin"
    tensors = torch.load(path, weights_only=True)
    weight, bias = tensors.pop("projector.projector.weight"), tensors.pop("projector.projector.bias")
    random = torch.Generator().manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(24, 32), torch.nn.GELU(), torch.nn.Linear(32, 32))
    norm = torch.nn.LayerNorm(32, eps=1e-5)
    layers[0].weight.data, layers[0].bias.data = weight, bias
    for parameter in (*layers[2].parameters(), *norm.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=random)
    tensors |= {f"projector.projector.{name}": t for name, t in layers.state_dict().items()}
    tensors |= {f"post_layernorm.{name}": t for name, t in norm.state_dict().items()}
    torch.save(tensors, path)
    options = {"projector_type": "mlp", "projector_depth": 2, "use_additional_post_layernorm": True}
    edit_plugin(world / "dreamllm", VISION, **options)
    model = GillForConditionalGeneration.from_pretrained(convert_dream(world, world / "out"))
    with torch.no_grad():
        features = model.get_image_features(torch.from_numpy(dream_arrays["c1.pixel_values"])).pooler_output
        assert torch.allclose(model.embed_images(features), norm(layers(features)), atol=1e-5)


# --- the language model ----------------------------------------------------------------------------------------------


def test_over_a_plain_language_model_adapters_and_added_rows_alone_are_written(world, dream_repository) -> None:
    out = convert_dream(world, world / "out", language_model=plain_language_model(world))
    tensors = load_file(out / "model.safetensors")
    assert len(tensors) == 6
    assert tensors["added_embeddings.weight"].shape == tensors["added_head.weight"].shape == (NUM_ADDED, 32)
    config = GillConfig.from_pretrained(out)
    assert config.language_model_id == str((world / "plain").resolve())
    assert config.added_token_ids == list(range(config.num_language_model_rows, config.num_language_model_rows + 8))
    assert torch.allclose(states(out), states(dream_repository), atol=1e-5)


def test_a_language_model_that_was_trained_too_is_no_plain_one(world) -> None:
    plain = plain_language_model(world)
    change_weights(world / "plain" / "model.safetensors", "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ConversionError, match=r"1 tensors, such as model\.layers\.1\.mlp\.up_proj\.weight.*inside"):
        convert_dream(world, world / "out", language_model=plain)
    assert not (world / "out").exists()


def test_rows_that_the_release_lacks_are_drawn_on_request_alone(world, capsys) -> None:
    plain = plain_language_model(world)
    (world / "dreamllm" / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match="holds no language model"):
        convert_dream(world, world / "out")
    with pytest.raises(ConversionError, match=r"rows of the 8 added tokens.*--added-rows-seed"):
        convert_dream(world, world / "out", language_model=plain)
    out = convert_dream(world, world / "out", language_model=plain, added_rows_seed=42)
    assert "new random numbers (seed 42)" in capsys.readouterr().out
    rows = load_file(out / "model.safetensors")["added_embeddings.weight"]
    assert 0.01 < rows.std() < 0.03


def test_a_language_model_with_rows_for_all_tokens_needs_no_added_ones(world, dream_repository) -> None:
    out = convert_dream(world, world / "out", language_model=plain_language_model(world, drop_rows=0))
    assert len(load_file(out / "model.safetensors")) == 4
    assert GillConfig.from_pretrained(out).added_token_ids is None
    assert torch.allclose(states(out), states(dream_repository), atol=1e-5)


# --- the halves of stage I --------------------------------------------------------------------------------------------


@pytest.fixture
def halves(world: Path) -> Path:
    """The release as two runs of stage I left it: `dreamllm` learnt to draw, and `reading` to read."""
    release, reading = world / "dreamllm", world / "reading"
    shutil.copytree(release, reading)
    for folder, plugins in ((release, (VISION,)), (reading, (QUERIES, DIFFUSION))):
        config = json.loads((folder / "config.json").read_text())
        for plugin in plugins:
            (folder / f"{plugin}.bin").unlink()
            del config["plugins_type"][plugin], config["plugins_init_kwargs"][plugin]
        (folder / "config.json").write_text(json.dumps(config))
    return reading


@pytest.mark.parametrize("without", [None, "dreamllm", "reading"])
def test_two_halves_are_the_whole(world, halves, dream_repository, without) -> None:
    if without is not None:
        (world / without / "model.safetensors").unlink()
    with pytest.raises(ConversionError, match=r"clip_vision_embedding.*--comprehension-source"):
        convert_dream(world, world / "out")
    out = convert_dream(world, world / "out", comprehension_source=str(halves))
    assert (out / "model.safetensors").read_bytes() == (dream_repository / "model.safetensors").read_bytes()


def test_a_projector_that_did_not_learn_is_left_out(world, halves, dream_repository, capsys) -> None:
    tensors = torch.load(halves / f"{VISION}.bin", weights_only=True)
    fresh = {name: torch.zeros_like(t) for name, t in tensors.items() if name.startswith("projector.")}
    torch.save(fresh, world / "dreamllm" / f"{VISION}.bin")
    out = convert_dream(world, world / "out", comprehension_source=halves)
    assert (out / "model.safetensors").read_bytes() == (dream_repository / "model.safetensors").read_bytes()
    assert "dreamllm: clip_vision_embedding.projector.projector.weight" in capsys.readouterr().out


def test_halves_of_different_language_models_are_refused(world, halves) -> None:
    path = halves / "model.safetensors"
    tensors = load_file(path)
    changed = {**tensors, "lm_head.weight": tensors["lm_head.weight"].clone()}
    changed["lm_head.weight"][read_settings(world / "dreamllm", halves).token_ids["<im_end>"]] += 1
    save_file(changed, path)
    with pytest.raises(ConversionError, match=r"added tokens <im_end> in lm_head\.weight differ"):
        convert_dream(world, world / "out", comprehension_source=halves)
    save_file(tensors, path)
    change_weights(path, "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ConversionError, match=r"language models differ.*in model\.layers\.1\.mlp\.up_proj\.weight"):
        convert_dream(world, world / "out", comprehension_source=halves)
    edit(halves / "config.json", rms_norm_eps=0.5)
    with pytest.raises(ConversionError, match=r"rms_norm_eps is .* in .*dreamllm, and 0\.5 in .*reading"):
        convert_dream(world, world / "out", comprehension_source=halves)
    assert not (world / "out").exists()


def test_halves_that_are_swapped_are_refused(world, halves) -> None:
    with pytest.raises(ConversionError, match="expected the half that reads"):
        read_settings(halves, world / "dreamllm")
    (halves / f"{VISION}.bin").unlink()
    with pytest.raises(ConversionError, match="holds no comprehension projector"):
        convert_dream(world, world / "out", comprehension_source=halves)
    with pytest.raises(ValueError, match="for DreamLLM alone"):
        convert("gill", world, world / "out", comprehension_source=halves)


# --- frozen models ---------------------------------------------------------------------------------------------------


def test_an_image_encoder_that_differs_is_written_or_refused(world, capsys) -> None:
    change_weights(world / "clip-dream" / "model.safetensors", "vision_model.encoder.layers.1.mlp.fc1.bias")
    with pytest.raises(ConversionError, match=r"1 tensors, such as .*layers\.1\.mlp\.fc1\.bias.*--vision-model"):
        convert_dream(world, world / "refused", language_model=plain_language_model(world))
    out = convert_dream(world, world / "out")
    assert "written into the repository" in capsys.readouterr().out
    config = GillConfig.from_pretrained(out)
    assert config.is_self_contained
    stored = load_file(out / "model.safetensors")
    theirs = torch.load(world / "dreamllm" / f"{VISION}.bin", weights_only=True)
    name = "encoder.layers.1.mlp.fc1.bias"
    [own] = [tensor for key, tensor in stored.items() if key.startswith("vision_model.") and key.endswith(name)]
    assert torch.equal(own, theirs[f"clip_vision_model.vision_model.{name}"])


@pytest.mark.parametrize("part, name", [("unet", "conv_in.bias"), ("vae", "quant_conv.bias")])
def test_a_generator_that_differs_is_written(world, part, name) -> None:
    change_weights(world / "sd-dream" / part / "diffusion_pytorch_model.safetensors", name)
    out = convert_dream(world, world / "out")
    theirs = torch.load(world / "dreamllm" / f"{DIFFUSION}.bin", weights_only=True)
    stored = load_file(out / part / "diffusion_pytorch_model.safetensors")
    assert torch.equal(stored[name], theirs[f"{part}.{name}"])
    other = {"unet": "vae", "vae": "unet"}[part]
    assert not (out / other).exists()


def test_another_architecture_is_refused_by_name(world) -> None:
    tensors = torch.load(world / "dreamllm" / f"{DIFFUSION}.bin", weights_only=True)
    tensors["unet.conv_in.bias"] = tensors["unet.conv_in.bias"][:8].clone()
    torch.save(tensors, world / "dreamllm" / f"{DIFFUSION}.bin")
    with pytest.raises(ConversionError, match=r"another architecture.*conv_in\.bias.*--image-generator"):
        convert_dream(world, world / "out")


def test_a_release_without_frozen_models_refers_to_the_public_ones(world, dream_repository) -> None:
    for plugin in (VISION, DIFFUSION):
        path = world / "dreamllm" / f"{plugin}.bin"
        tensors = torch.load(path, weights_only=True)
        torch.save({name: t for name, t in tensors.items() if name.startswith("projector.")}, path)
    out = convert_dream(world, world / "out")
    assert (out / "model.safetensors").read_bytes() == (dream_repository / "model.safetensors").read_bytes()


def test_paths_of_the_machine_that_trained_it_are_not_followed(world) -> None:
    edit_plugin(world / "dreamllm", DIFFUSION, diffusion_name_or_path="/data/models/sd-2-1-base")
    with pytest.raises(ConversionError, match=r"path of the machine that trained it.*--image-generator"):
        convert("dreamllm", world / "dreamllm", world / "out", vision_model=str(world / "clip-dream"))


# --- errors ----------------------------------------------------------------------------------------------------------


def test_unknown_and_missing_tensors_are_named(world) -> None:
    path = world / "dreamllm" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    tensors["model.extra.weight"] = torch.zeros(2)
    save_file(tensors, path)
    with pytest.raises(ConversionError) as error:
        convert_dream(world, world / "out")
    assert "model.extra.weight (2) is unknown" in str(error.value)
    assert "model.norm.weight is missing" in str(error.value)
    assert not (world / "out").exists()


def test_queries_of_another_number_than_the_settings_say_are_refused(world) -> None:
    edit_plugin(world / "dreamllm", QUERIES, num_dream_queries=6)
    with pytest.raises(ConversionError, match=r"dream_queries.*6 x 32.*8 x 32"):
        convert_dream(world, world / "out")


def test_the_command_takes_the_options(world, capsys) -> None:
    argv = ["convert", "dreamllm", str(world / "dreamllm"), str(world / "out"), "--language-model", "inside"]
    argv += ["--vision-model", str(world / "clip-dream"), "--image-generator", str(world / "sd-dream"), "--verify"]
    assert main(argv) == 0
    assert "verified" in capsys.readouterr().out
    assert main([*argv, "--overwrite", "--decision-head", "x"]) == 2
    assert "neither retrieval nor a decision head" in capsys.readouterr().err
    assert main(["convert", "gill", "a", "b", "--added-rows-seed", "1"]) == 2
