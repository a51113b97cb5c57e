"""Visual tokens come to say what the words for an image say."""

from pathlib import Path

import pytest
import torch
from torch import nn

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.image_generator import plain_captions
from picturebook.stages import train_visual_projection as stage
from picturebook.stages.training_loop import Schedule
from picturebook.world.drawing import to_images
from picturebook.world.pairs import draw_all
from picturebook.world.splits import TRAIN, scene_in, stream
from pipeline_gill import GillPipeline


@pytest.fixture(scope="module")
def pipe() -> GillPipeline:
    return GillPipeline.from_pretrained(CHECKPOINT)


def test_pairs_whose_caption_leaves_something_out_are_left_out(
    pipe: GillPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {name: torch.full((3,), float(number)) for number, name in enumerate(("whole", "partial", "other"))}
    monkeypatch.setattr(stage, "ImageFeatureCache", lambda cache: features)
    captions = ("a red house on the left at night", "a red house at night", "by day , a pink cat at the top")
    data = [{"key": key, "caption": caption} for key, caption in zip(features, captions, strict=True)]
    shown = stage.read_images_in_words(data, Path("cache"), pipe.processor, seed=0)
    assert shown.features.tolist() == [[0.0] * 3, [2.0] * 3]
    tokenizer = pipe.processor.tokenizer
    assert tokenizer.decode(shown.captions[1], skip_special_tokens=True) == "a pink cat at the top by day ."
    assert tokenizer.decode(shown.words[0]).startswith("( night red house left nothing")


def test_visual_tokens_approach_the_words_and_nothing_else_learns(pipe: GillPipeline, tmp_path: Path) -> None:
    model, processor, generator = pipe.model, pipe.processor, stream(0, TRAIN, "shown")
    scenes = [scene_in(TRAIN, generator) for _ in range(16)]
    values = processor.image_processor(images=to_images(draw_all(scenes, generator)), return_tensors="pt")
    with torch.no_grad():
        features = dict(enumerate(model.get_image_features(values["pixel_values"]).pooler_output))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "ImageFeatureCache", lambda cache: features)
        data = [{"key": key, "caption": caption} for key, caption in enumerate(plain_captions(scenes))]
        shown = stage.read_images_in_words(data, Path("cache"), processor, seed=0)
    for layer in model.visual_projection.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    losses, images = stage.VisualTokenLosses(model, shown, processor.tokenizer.pad_token_id), torch.arange(16)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        first = losses.imitation(images), losses.captioning(images)
    schedules = (Schedule(60, 16, 3e-3, warmup=5), Schedule(4, 8, 1e-4, warmup=1))
    stage.train_visual_projection(model, processor, shown, schedules, tmp_path, seed=0)
    with torch.no_grad():
        assert losses.imitation(images) < 0.3 * first[0] and losses.captioning(images) < 0.5 * first[1]
    changed = {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {"visual_projection"}
