"""What is read of the frozen models by name, and how it is reported that one is not there."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from pipeline_gill.frozen_models import FrozenModel, FrozenModelError, full_path, load_vision_config, load_vision_model
from pipeline_gill.generator_configs import conditioning_of_configs


def test_a_folder_is_stored_by_its_absolute_path_and_a_hub_id_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert full_path("models") == str((tmp_path / "models").resolve())
    assert full_path("facebook/opt-6.7b") == "facebook/opt-6.7b"


def test_of_a_whole_clip_the_vision_tower_is_taken(tmp_path: Path) -> None:
    CLIPConfig(vision_config={"hidden_size": 48}).save_pretrained(tmp_path)
    config = load_vision_config(FrozenModel("image encoder", str(tmp_path), "--vision-model"))
    assert (config.model_type, config.hidden_size) == ("clip_vision_model", 48)


def test_an_image_encoder_with_tensors_missing_is_refused(golden_world: Path, tmp_path: Path) -> None:
    shutil.copytree(golden_world / "clip-golden", tmp_path / "clip")
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    encoder = FrozenModel("image encoder", str(tmp_path / "clip"), "--vision-model")
    with pytest.raises(FrozenModelError, match="lack 1 tensors"):
        load_vision_model(encoder, load_vision_config(encoder))
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(FrozenModelError, match=r"The weights of the image encoder .*--vision-model"):
        load_vision_model(encoder, load_vision_config(encoder))


def test_a_generator_that_does_not_tell_its_sizes_is_refused(golden_world: Path, tmp_path: Path) -> None:
    (tensor,) = conditioning_of_configs(FrozenModel("image generator", str(golden_world / "sd-golden"), "--option"))
    assert (tensor.length, tensor.dim) == (77, 768)
    generator = FrozenModel("image generator", str(tmp_path), "--image-generator")
    with pytest.raises(FrozenModelError, match=r"model_index\.json of the image generator .*--image-generator"):
        conditioning_of_configs(generator)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for folder, text in (("text_encoder", "{}"), ("unet", '{"cross_attention_dim": [1, 2]}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(text)
    with pytest.raises(FrozenModelError, match=r"cross_attention_dim \[1, 2\]|max_position_embeddings None"):
        conditioning_of_configs(generator)
