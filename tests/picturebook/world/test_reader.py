"""The reader is right on drawings and on what a good autoencoder leaves of them, and strict on everything else."""

import numpy as np
import pytest

from picturebook.world.pairs import PairMixture, draw_all, sample_pairs
from picturebook.world.reader import correctness, read
from picturebook.world.scene import Scene, SceneObject, all_scenes, edits_of
from picturebook.world.splits import TEST, stream
from tests.picturebook.distortions import blurred, soften_objects, with_error

NUMBER = 800


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, tuple[Scene, ...]]:
    """Values of 0 to 1, float64 `(images, 32, 32, 3)`, and what they show."""
    pairs = sample_pairs(TEST, NUMBER, stream(11, TEST, "reader"), PairMixture())
    return pairs.images / 255, pairs.scenes


def share_right(images: np.ndarray, scenes: tuple[Scene, ...]) -> float:
    return float(correctness(read(images), scenes)["scene"].mean())


def share_sure(images: np.ndarray) -> float:
    return float(np.mean([scene is not None for scene in read(images).scenes()]))


def test_drawn_images_are_read_right() -> None:
    scenes = tuple(all_scenes())[::25]
    found = correctness(read(draw_all(scenes, np.random.default_rng(5))), scenes)
    assert all(ok.mean() >= 0.995 for ok in found.values()), {name: ok.mean() for name, ok in found.items()}


def test_every_object_is_read_right_at_every_jitter() -> None:
    scenes = [scene for scene in all_scenes() if len(scene.objects) == 1 and scene.background in ("night", "sea")]
    assert share_right(draw_all(scenes * 3, np.random.default_rng(6)), tuple(scenes * 3)) == 1


def test_small_noise_is_forgiven(drawn: tuple[np.ndarray, tuple[Scene, ...]]) -> None:
    images, scenes = drawn
    noise = np.random.default_rng(0).normal(size=images.shape)
    assert share_right(with_error(images, noise, 30), scenes) >= 0.995
    # As autoencoders err: at edges.
    assert share_right(with_error(images, blurred(images, 1) - images, 30), scenes) >= 0.995
    assert share_right(soften_objects(images, scenes, 30), scenes) >= 0.995


def test_blurred_and_very_noisy_images_are_not_right(drawn: tuple[np.ndarray, tuple[Scene, ...]]) -> None:
    images, scenes = drawn
    assert share_right(blurred(images, 0.4), scenes) >= 0.99
    assert share_right(blurred(images, 0.6), scenes) <= 0.15
    assert share_right(blurred(images, 1), scenes) == 0
    assert share_right(with_error(images, np.random.default_rng(1).normal(size=images.shape), 19), scenes) == 0


def test_what_is_read_surely_is_right(drawn: tuple[np.ndarray, tuple[Scene, ...]]) -> None:
    images, scenes = drawn
    for radius in (0.3, 0.5, 0.7, 1, 2):
        found = read(blurred(images, radius)).scenes()
        assert all(one is None or one == truth for one, truth in zip(found, scenes, strict=True))


def test_an_average_of_two_images_is_read_as_neither(drawn: tuple[np.ndarray, tuple[Scene, ...]]) -> None:
    images, scenes = drawn
    order = np.roll(np.arange(NUMBER), 1)
    assert share_sure((images + images[order]) / 2) <= 0.01
    for share in (0.5, 0.4, 0.35):
        one = correctness(read((1 - share) * images + share * images[order]), scenes)["scene"]
        different = np.array([scenes[a] != scenes[b] for a, b in enumerate(order)])
        assert not one[different].any()


def test_an_average_of_scenes_that_differ_in_one_attribute_is_read_as_neither() -> None:
    scene = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")
    for truth in (scene, *edits_of(scene)[::3]):
        edits = edits_of(truth)
        images = np.stack([draw_all([one], np.random.default_rng(2))[0] / 255 for one in [truth, *edits]])
        for share in (0.5, 0.4, 0.35):
            found = read((1 - share) * images[0] + share * images[1:]).scenes()
            wrongly = [one for one, edit in zip(found, edits, strict=True) if one in (truth, edit)]
            assert wrongly == []


def test_attributes_are_judged_by_themselves() -> None:
    truth = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")
    shown = {
        "background": Scene(truth.objects, "snow"),
        "places": Scene((truth.objects[0], SceneObject("boat", "blue", "right")), "night"),
        "kinds": Scene((SceneObject("car", "red", "left"), truth.objects[1]), "night"),
        "colours": Scene((SceneObject("house", "pink", "left"), truth.objects[1]), "night"),
    }
    readings = read(draw_all(list(shown.values()), np.random.default_rng(0)))
    found = correctness(readings, [truth] * len(shown))
    assert not found["scene"].any()
    for number, name in enumerate(shown):
        wrong = {attribute for attribute in shown if not found[attribute][number]}
        # An object that is elsewhere is of the wrong kind and colour where it should be.
        assert wrong == ({"places", "kinds", "colours"} if name == "places" else {name})


def test_what_is_no_scene_is_read_as_none() -> None:
    noise = np.random.default_rng(0).random((3, 32, 32, 3))
    assert read(noise).scenes() == [None] * 3
    assert read(np.full((2, 32, 32, 3), 128, dtype=np.uint8)).scenes() == [None] * 2
    assert len(read(np.zeros((0, 32, 32, 3), dtype=np.uint8)).background) == 0


def test_an_image_with_a_foreign_patch_is_not_sure(drawn: tuple[np.ndarray, tuple[Scene, ...]]) -> None:
    images = drawn[0].copy()
    images[:, 12:20, 12:20] = (1, 0, 1)
    assert share_sure(images) == 0


@pytest.mark.parametrize("wrong", [np.zeros((32, 32, 3)), np.zeros((1, 3, 32, 32)), np.full((1, 32, 32, 3), 200.0)])
def test_other_arrays_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        read(wrong)
