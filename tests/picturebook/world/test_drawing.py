"""Images show what they should, clearly, and are the same on every machine."""

import hashlib

import numpy as np
import pytest

from picturebook.world.backgrounds import PAINTED
from picturebook.world.drawing import draw
from picturebook.world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, SceneObject, all_scenes
from picturebook.world.sprites import BODY, SPRITES


def test_images_are_the_same_on_every_machine() -> None:
    generator = np.random.default_rng(3)
    images = np.stack([draw(scene, generator) for scene in list(all_scenes())[::500]])
    assert images.shape == (99, 32, 32, 3) and images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "a07f8f2b5a1a9bde"


def test_objects_jitter_by_at_most_one_pixel() -> None:
    scene = Scene((SceneObject("house", "red", "top"),), "day")
    generator = np.random.default_rng(0)
    corners = set()
    for _ in range(200):
        ys, xs = np.nonzero((draw(scene, generator) != PAINTED["day"]).any(axis=-1))
        corners.add((int(ys.min()), int(xs.min())))
    assert {y for y, _ in corners} == {0, 1, 2}
    assert {x for _, x in corners} == {11, 12, 13}


def test_two_objects_never_cover_each_other() -> None:
    # Wherever jitter puts them. A pixel may happen to be of the background's own colour.
    for one, other in ((one, other) for one in PLACES for other in PLACES if one != other):
        generator = np.random.default_rng(1)
        for _ in range(60):
            both = draw(Scene((SceneObject("house", "red", one), SceneObject("car", "blue", other)), "sea"), generator)
            changed = (both != PAINTED["sea"]).any(axis=-1).sum()
            assert changed >= SPRITES["house", "red"][1].sum() + SPRITES["car", "blue"][1].sum() - 6


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_clearly_visible_before_every_background(background: str, colour: str) -> None:
    apart = np.linalg.norm(PAINTED[background].astype(float) - BODY[colour], axis=-1)
    # Of 441 that black and white are apart. Bright details are in corners, where no object stands.
    assert np.median(apart) > 90 and np.percentile(apart, 5) > 80


def test_colours_are_far_apart() -> None:
    for one in COLOURS:
        for other in COLOURS:
            assert one == other or np.linalg.norm(np.subtract(BODY[one], BODY[other])) > 100


def test_kinds_have_different_shapes() -> None:
    for one in KINDS:
        for other in KINDS:
            differs = (SPRITES[one, "red"][0] != SPRITES[other, "red"][0]).any(axis=-1)
            assert one == other or differs.sum() >= 25, (one, other)
