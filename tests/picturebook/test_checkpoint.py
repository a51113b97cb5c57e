"""The embedded checkpoint: what a fresh clone answers."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import judge, load_pipeline
from picturebook.world.drawing import from_images, to_images
from picturebook.world.pairs import draw_all
from picturebook.world.prompts import sample_prompts
from picturebook.world.reader import read
from picturebook.world.scene import is_retrievable
from picturebook.world.splits import TEST, stream
from pipeline_gill import GillPipeline
from tests.picturebook.scene_keys import scene_of_key


@pytest.fixture(scope="module")
def pipe() -> GillPipeline:
    return load_pipeline(CHECKPOINT)


def seen(image: Image.Image) -> str:
    (scene,) = read(from_images([image])).scenes()
    return "unclear" if scene is None else scene.key


def test_the_checkpoint_has_at_most_30_megabytes_and_half_precision_weights() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 30e6
    weights = [weight for path in files if path.suffix == ".safetensors" for weight in load_file(path).values()]
    assert {weight.dtype for weight in weights if weight.is_floating_point()} == {torch.float16}


def test_no_file_names_a_folder_of_the_machine_that_made_it() -> None:
    for path in CHECKPOINT.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'"/[a-z]', text), path


def test_it_loads_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert load_pipeline(CHECKPOINT).retrieval_set is not None


def test_the_image_follows_the_story(pipe: GillPipeline) -> None:
    out = pipe(
        "a red house on the left at night . then it turns blue . picture :", generator=torch.Generator().manual_seed(0)
    )
    assert out.texts[0].strip().startswith("a blue house on the left at night")
    assert seen(out.image_pieces[0][0].image) == "night/left-blue-house"


def test_only_retrievable_scenes_are_retrieved_and_answers_are_right_either_way(pipe: GillPipeline) -> None:
    asked = sample_prompts(TEST, 60, stream(0, TEST, "decided"))
    generators = [torch.Generator().manual_seed(0) for _ in asked]
    out = pipe([prompt.prompt for prompt in asked], generator=generators, num_inference_steps=8)
    first = [images[0] if images else None for images in out.image_pieces]
    found = [
        is_retrievable(one.scene)
        for one, image in zip(asked, first, strict=True)
        if image is not None and image.source == "retrieved"
    ]
    assert all(found) and len(found) >= 6
    assert judge(first, [prompt.scene for prompt in asked]).mean() >= 0.85


def test_an_image_in_the_prompt_is_understood(pipe: GillPipeline) -> None:
    scene = scene_of_key("snow/left-yellow-boat/top-blue-cat")
    (image,) = to_images(draw_all([scene], stream(0, TEST, "seen")))
    out = pipe(
        [[image, "then night falls . picture :"]], decision="generate", generator=torch.Generator().manual_seed(0)
    )
    assert seen(out.image_pieces[0][0].image) == "night/left-yellow-boat/top-blue-cat"


def test_enlarged_images_give_the_same_answer(pipe: GillPipeline) -> None:
    scene = scene_of_key("snow/left-yellow-boat/top-blue-cat")
    (image,) = to_images(draw_all([scene], stream(0, TEST, "seen")))
    prompts = [[one, "picture :"] for one in (image, image.resize((256, 256), Image.Resampling.NEAREST))]
    small, large = (pipe([prompt], decision="retrieve").texts[0] for prompt in prompts)
    assert small == large


def test_a_saved_copy_retrieves_the_same(pipe: GillPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path, self_contained=True)
    again = load_pipeline(tmp_path)
    prompt = "a red house on the left at night . picture :"
    one, other = (each(prompt, decision="retrieve").image_pieces[0][0].index for each in (pipe, again))
    assert one == other
