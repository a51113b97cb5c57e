"""What is computed once: the generator's own text embeddings, and features of images."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline

from gill import cli
from modeling_gill import GillForConditionalGeneration
from training_gill import PrecomputeArguments, array_cache, precomputation, precompute
from training_gill.caches import CacheError, ImageFeatureCache, TextTargetsCache, read_negatives
from training_gill.training_data import open_data


@pytest.fixture
def arguments(small_world, tmp_path):
    return PrecomputeArguments(
        [str(small_world / "train.tsv")],
        str(tmp_path / "cache"),
        image_generator=str(small_world / "models" / "image_generator"),
        dtype="float32",
        device="cpu",
    )


def test_targets_are_what_the_generator_conditions_on(arguments, small_world, tmp_path):
    assert precompute(arguments).targets == 256
    generator = StableDiffusionPipeline.from_pretrained(
        small_world / "models" / "image_generator", safety_checker=None, requires_safety_checker=False
    )
    targets = TextTargetsCache(tmp_path / "cache")
    for caption in ("a small red circle on a white background", "a large blue cross on a grey background"):
        expected, _ = generator.encode_prompt(caption, "cpu", 1, False)
        torch.testing.assert_close(targets[caption]["prompt_embeds"], expected[0], rtol=1e-5, atol=1e-6)
    assert len(targets) == 256


def test_stored_in_float16_targets_are_off_by_its_rounding_alone(small_world, tmp_path, arguments):
    precompute(arguments)
    exact, rounded = TextTargetsCache(tmp_path / "cache"), TextTargetsCache(small_world / "cache")
    caption = "a small red circle on a white background"
    assert torch.equal(rounded[caption]["prompt_embeds"], exact[caption]["prompt_embeds"].half())


def test_features_are_those_of_the_model(small_world, recipe_with, tmp_path):
    from training_gill.collator import CaptionedImageCollator
    from training_gill.model_building import build_model

    model, processor = build_model(recipe_with().model, torch.float32, 0)
    assert isinstance(model, GillForConditionalGeneration)
    data = open_data(str(small_world / "train.tsv"))
    examples = [data[i] for i in range(5)]
    features = ImageFeatureCache(small_world / "cache")
    batch = CaptionedImageCollator(processor)(examples)
    expected = model.get_image_features(batch["pixel_values"]).pooler_output
    found = torch.stack([features[example["key"]] for example in examples])
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_an_interrupted_run_continues_where_it_was(arguments, tmp_path, monkeypatch):
    encode, calls = precomputation.TargetEncoder.__call__, []

    def interrupted(self, captions):
        calls.append(len(captions))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, captions)

    monkeypatch.setattr(precomputation.TargetEncoder, "__call__", interrupted)
    monkeypatch.setattr(array_cache, "SHARD_SIZE", 16)
    with pytest.raises(KeyboardInterrupt):
        precompute(replace(arguments, batch_size=32))
    with pytest.raises(CacheError, match="interrupted"):
        TextTargetsCache(tmp_path / "cache")
    monkeypatch.setattr(precomputation.TargetEncoder, "__call__", encode)
    assert precompute(arguments).targets == 192
    assert len(TextTargetsCache(tmp_path / "cache")) == 256
    assert precompute(arguments).targets == 0


def test_of_two_runs_over_one_cache_the_second_is_refused_and_spoils_nothing(arguments, tmp_path, monkeypatch):
    encode, calls, refused = precomputation.TargetEncoder.__call__, [], []

    def encode_beside_another(self, captions):
        calls.append(None)
        # The first call measures, before anything is written.
        if len(calls) == 2:
            with pytest.raises(CacheError, match="another process") as error:
                precompute(replace(arguments, batch_size=16))
            refused.append(str(error.value))
        return encode(self, captions)

    monkeypatch.setattr(precomputation.TargetEncoder, "__call__", encode_beside_another)
    assert precompute(arguments).targets == 256
    assert str(tmp_path / "cache") in refused[0]
    assert len(TextTargetsCache(tmp_path / "cache")) == 256


def test_an_image_that_cannot_be_read_is_named_and_remembered_until_it_can(own_world, small_world, tmp_path, capsys):
    whole = (own_world / "images" / "train-00001.png").read_bytes()
    (own_world / "images" / "train-00001.png").write_bytes(b"broken")
    words = ["precompute", "--dataset", str(own_world / "train.tsv"), "--out", str(tmp_path / "cache")]
    words += ["--image-features", "--vision-model", str(small_world / "models" / "vision_model")]
    assert cli.main(words) == 0
    printed = capsys.readouterr()
    assert "train-00001.png" in printed.err
    assert "1 images could not be read" in printed.out
    features = ImageFeatureCache(tmp_path / "cache")
    assert len(features) == 255
    data = open_data(str(own_world / "train.tsv"))
    assert data[1]["key"] in features.unreadable
    with pytest.raises(CacheError, match="no image"):
        features["another"]
    (own_world / "images" / "train-00001.png").write_bytes(whole)
    assert cli.main(words) == 0
    assert not ImageFeatureCache(tmp_path / "cache").unreadable


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"image_generator": "/no/such/generator"}, "such/generator"),
        ({"dataset": ["/no/such.tsv"]}, "such.tsv"),
        ({"image_generator": None}, "Nothing to do"),
        ({"image_features": True}, "`vision_model`"),
        ({"image_features": True, "vision_model": "/no/such/model"}, "such/model"),
        ({"dtype": "int8"}, "`dtype`"),
        ({"image_folder": ["a", "b"]}, "`image_folder`"),
        ({"generator_dtype": "int8"}, "`generator_dtype`"),
        ({"shard": 2, "num_shards": 2}, "`shard` must be one of 0 to"),
        ({"shard": 0}, "`num_shards` None"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_computed(replaced, message, arguments, tmp_path):
    with pytest.raises(ValueError, match=message):
        precompute(replace(arguments, **replaced))
    assert not (tmp_path / "cache").exists()


def test_processes_that_share_the_work_write_one_cache(arguments, small_world, tmp_path, monkeypatch):
    written = precompute(replace(arguments, shard=1, num_shards=2)).targets
    with pytest.raises(CacheError, match="part-00000-of-00002"):
        TextTargetsCache(tmp_path / "cache")
    # As torchrun and `accelerate launch` start them.
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert written + precompute(arguments).targets == 256
    shared, alone = TextTargetsCache(tmp_path / "cache"), TextTargetsCache(small_world / "cache")
    assert len(shared) == 256
    caption = "a small red circle on a white background"
    assert torch.equal(shared[caption]["prompt_embeds"].half(), alone[caption]["prompt_embeds"])
    assert read_negatives(tmp_path / "cache").keys() == {"negative_prompt_embeds"}


def test_the_size_is_said_before_anything_is_written(arguments, tmp_path):
    lines = []

    def say(line):
        assert not (tmp_path / "cache").exists()
        lines.append(line)

    precompute(arguments, say)
    assert lines[0].startswith("text targets: 256 captions x 2,048 bytes = 524,288 bytes; ")


def test_the_command_line_names_the_generator_and_the_arguments_of_its_call(small_world, tmp_path, capsys):
    generator = str(small_world / "models" / "image_generator")
    words = ["precompute", "--dataset", str(small_world / "validation.tsv"), "--out", str(tmp_path / "cache")]
    words += ["--generator", generator, "--image-generator-kwargs", "guidance_rescale=0.5", "--device", "cpu"]
    assert cli.main(words) == 0
    assert "text targets: 64 captions x" in capsys.readouterr().out
    info = TextTargetsCache(tmp_path / "cache").info
    assert (info["image_generator"], info["image_generator_kwargs"]) == (generator, {"guidance_rescale": 0.5})
