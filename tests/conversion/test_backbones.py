"""What a conversion reads of the frozen models, and how it says that one is not there."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from conversion.backbones import conditioning_shape, load_tokenizer, load_vision_config, load_vision_model, locate
from conversion.original_files import ConversionError


def test_a_folder_is_stored_by_its_absolute_path_and_a_hub_id_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert locate("language model", "models", "--language-model").name == str((tmp_path / "models").resolve())
    assert locate("language model", "facebook/opt-6.7b", "--language-model").name == "facebook/opt-6.7b"


def test_of_a_whole_clip_the_vision_tower_is_taken(tmp_path: Path) -> None:
    CLIPConfig(vision_config={"hidden_size": 48}).save_pretrained(tmp_path)
    config = load_vision_config(locate("image encoder", str(tmp_path), "--vision-model"))
    assert (config.model_type, config.hidden_size) == ("clip_vision_model", 48)


def test_an_image_encoder_with_tensors_missing_is_refused(golden_world: Path, tmp_path: Path) -> None:
    shutil.copytree(golden_world / "clip-golden", tmp_path / "clip")
    weights = load_file(tmp_path / "clip" / "model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, tmp_path / "clip" / "model.safetensors", metadata={"format": "pt"})
    encoder = locate("image encoder", str(tmp_path / "clip"), "--vision-model")
    with pytest.raises(ConversionError, match="lack 1 tensors"):
        load_vision_model(encoder, load_vision_config(encoder))
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConversionError, match=r"no weights of the image encoder .*--vision-model"):
        load_vision_model(encoder, load_vision_config(encoder))


def test_a_tokenizer_without_padding_pads_with_its_end(small_backbones: Path, tmp_path: Path) -> None:
    shutil.copytree(small_backbones / "lm", tmp_path / "lm")
    settings = json.loads((tmp_path / "lm" / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (tmp_path / "lm" / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(locate("language model", str(tmp_path / "lm"), "--language-model"), ["[RET]"], [380])
    assert (tokenizer.pad_token_id, tokenizer.padding_side) == (tokenizer.eos_token_id, "left")


def test_a_generator_that_does_not_say_its_sizes_is_refused(golden_world: Path, tmp_path: Path) -> None:
    assert conditioning_shape(locate("image generator", str(golden_world / "sd-golden"), "--image-generator")) == (
        77,
        768,
    )
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text("{}")
    generator = locate("image generator", str(tmp_path), "--image-generator")
    with pytest.raises(ConversionError, match=r"unet/config\.json of the image generator .*--image-generator"):
        conditioning_shape(generator)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"cross_attention_dim": [1, 2]}')
    with pytest.raises(ConversionError, match=r"cross_attention_dim \[1, 2\]|max_position_embeddings None"):
        conditioning_shape(generator)
