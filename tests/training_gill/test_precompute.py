"""What is computed once: the generator's own text embeddings, and features of images."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from modeling_gill import GillForConditionalGeneration
from training_gill import precompute
from training_gill.image_feature_cache import ImageFeatureCache
from training_gill.keyed_arrays import CacheError, KeyedArrays, KeyedArrayWriter
from training_gill.text_targets_cache import TextTargetsCache
from training_gill.training_data import open_data


@pytest.fixture
def arguments(small_world, tmp_path):
    return [
        "--dataset",
        str(small_world / "train.tsv"),
        "--out",
        str(tmp_path / "cache"),
        "--device",
        "cpu",
        "--image-generator",
        str(small_world / "models" / "image_generator"),
        "--dtype",
        "float32",
    ]


def test_targets_are_what_the_generator_conditions_on(arguments, small_world, tmp_path):
    assert precompute.main(arguments) == 0
    generator = StableDiffusionPipeline.from_pretrained(
        small_world / "models" / "image_generator", safety_checker=None, requires_safety_checker=False
    )
    targets = TextTargetsCache(tmp_path / "cache")
    for caption in ("a small red circle on a white background", "a large blue cross on a grey background"):
        expected, _ = generator.encode_prompt(caption, "cpu", 1, False)
        torch.testing.assert_close(targets[caption], expected[0], rtol=1e-5, atol=1e-6)
    assert len(targets) == 256


def test_stored_in_float16_targets_are_off_by_its_rounding_alone(small_world, tmp_path, arguments):
    assert precompute.main(arguments) == 0
    exact, rounded = TextTargetsCache(tmp_path / "cache"), TextTargetsCache(small_world / "cache")
    caption = "a small red circle on a white background"
    torch.testing.assert_close(rounded[caption], exact[caption], rtol=1e-3, atol=1e-3)


def test_features_are_those_of_the_model(small_world, recipe_with, tmp_path):
    from training_gill.collator import CaptionedImageCollator
    from training_gill.fresh_model import build_model

    model, processor = build_model(recipe_with().model, torch.float32, 0)
    assert isinstance(model, GillForConditionalGeneration)
    data = open_data(str(small_world / "train.tsv"))
    examples = [data[i] for i in range(5)]
    features = ImageFeatureCache(small_world / "cache")
    batch = CaptionedImageCollator(processor)(examples)
    expected = model.get_image_features(batch["pixel_values"]).pooler_output
    found = torch.stack([features[example["key"]] for example in examples])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_an_interrupted_run_goes_on_where_it_was(arguments, tmp_path, monkeypatch, capsys):
    encode = precompute.TextEncoder.__call__
    calls = []

    def breaks_down(self, captions):
        calls.append(len(captions))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(self, captions)

    monkeypatch.setattr(precompute.TextEncoder, "__call__", breaks_down)
    monkeypatch.setattr(KeyedArrayWriter.__init__, "__defaults__", (16,))
    with pytest.raises(KeyboardInterrupt):
        precompute.main([*arguments, "--batch-size", "32"])
    with pytest.raises(CacheError, match="interrupted"):
        TextTargetsCache(tmp_path / "cache")
    monkeypatch.setattr(precompute.TextEncoder, "__call__", encode)
    capsys.readouterr()
    assert precompute.main(arguments) == 0
    assert "wrote 192 text targets" in capsys.readouterr().out
    assert len(TextTargetsCache(tmp_path / "cache")) == 256


def test_an_image_that_cannot_be_read_is_named_and_remembered(own_world, small_world, tmp_path, capsys):
    (own_world / "images" / "train-00001.png").write_bytes(b"broken")
    arguments = ["--dataset", str(own_world / "train.tsv"), "--out", str(tmp_path / "cache"), "--image-features"]
    assert precompute.main([*arguments, "--vision-model", str(small_world / "models" / "vision_model")]) == 0
    said = capsys.readouterr()
    assert "train-00001.png" in said.err
    assert "1 images could not be read" in said.out
    features = ImageFeatureCache(tmp_path / "cache")
    assert len(features) == 255
    data = open_data(str(own_world / "train.tsv"))
    assert data[1]["key"] in features.unreadable
    with pytest.raises(CacheError, match="no image"):
        features["another"]


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({"--image-generator": "/no/such/generator"}, "generator"),
        ({"--dataset": "/no/such.tsv"}, "such.tsv"),
    ],
)
def test_what_is_missing_is_said_in_one_line(replaced, said, arguments, capsys):
    for option, value in replaced.items():
        arguments[arguments.index(option) + 1] = value
    assert precompute.main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_nothing_to_do_is_said(small_world, tmp_path, capsys):
    arguments = ["--dataset", str(small_world / "train.tsv"), "--out", str(tmp_path)]
    assert precompute.main(arguments) == 2
    assert precompute.main([*arguments, "--image-features"]) == 2
    assert "--vision-model" in capsys.readouterr().err


def test_arrays_are_found_by_their_keys_across_shards(tmp_path):
    writer = KeyedArrayWriter(tmp_path, {"made": "here"}, shard_size=3)
    for number in range(8):
        writer.add(f"key {number}", np.full((2, 2), number, dtype=np.float16))
    writer.finish()
    arrays = KeyedArrays(tmp_path)
    assert len(arrays) == 8
    assert [int(arrays[f"key {number}"][0, 0]) for number in range(8)] == list(range(8))
    assert "key 9" not in arrays
    assert list(KeyedArrayWriter(tmp_path, {"made": "here"}).missing(["key 1", "key 9", "key 9"])) == ["key 9"]


def test_a_folder_that_holds_no_cache_is_named(tmp_path, small_world):
    with pytest.raises(CacheError, match="no cache"):
        KeyedArrays(tmp_path)
    shutil.copytree(small_world / "cache" / "text_targets", tmp_path / "broken")
    (tmp_path / "broken" / "info.json").write_text("{")
    with pytest.raises(CacheError, match="no cache"):
        KeyedArrays(tmp_path / "broken")
    assert json.loads((small_world / "cache" / "text_targets" / "info.json").read_text())["complete"]
