"""What CLIP is trained to tell apart: scenes that differ in one object."""

from collections import Counter

from PIL import Image

from picturebook.models.autoencoder import to_tensor
from picturebook.models.clip import NAMES, image_processor, names_of
from picturebook.stages.train_clip import story_so_far
from picturebook.world.caption_grammar import layout
from picturebook.world.drawing import to_images
from picturebook.world.pairs import draw_all
from picturebook.world.scene import Scene, SceneObject, shuffled_edits, swaps_of
from picturebook.world.splits import TRAIN, VALIDATION, scenes_with_edits, split_of, stream

TWO = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")


def test_exchanged_places_and_colours_are_among_the_edits() -> None:
    assert {one.key for one in swaps_of(TWO)} == {
        "night/left-blue-boat/top-red-house",
        "night/left-blue-house/top-red-boat",
    }
    assert swaps_of(Scene(TWO.objects[:1], "night")) == []


def test_the_first_edits_are_of_every_sort() -> None:
    first = shuffled_edits(TWO, stream(0, TRAIN, "edits"))[:5]
    assert len({one.key for one in first} | {TWO.key}) == 6
    changed = Counter(
        "background" if one.background != TWO.background else tuple(sorted(obj.kind for obj in one.objects))
        for one in first
    )
    assert changed["background"] == 1


def test_edits_keep_to_the_split() -> None:
    scenes = scenes_with_edits(VALIDATION, 30, 8, stream(0, VALIDATION, "edits"))
    assert len(scenes) > 200
    assert {split_of(one) for one in scenes} <= {None, VALIDATION}


def test_stories_so_far_are_of_two_sentences_at_least() -> None:
    generator = stream(0, TRAIN, "so far")
    assert {story_so_far(TRAIN, generator)[0].count(" .") for _ in range(60)} == {2, 3, 4, 5}


def test_the_processor_gives_an_image_shown_enlarged_as_it_was() -> None:
    images = draw_all([TWO], stream(0, TRAIN, "one"))
    values = image_processor()(
        images=[to_images(images)[0].resize((256, 256), Image.Resampling.NEAREST)], return_tensors="pt"
    )["pixel_values"]
    assert (values - to_tensor(images)).abs().max() < 1e-6


def test_images_are_named_place_by_place() -> None:
    (numbers,) = names_of([TWO]).tolist()
    assert " ".join(NAMES[number] for number in numbers) == layout(TWO)
