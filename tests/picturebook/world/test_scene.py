"""Scenes are exactly what the rules allow, and each is known by one key and one number."""

import numpy as np
import pytest

from picturebook.world.scene import (
    Scene,
    SceneError,
    SceneObject,
    all_combinations,
    all_scenes,
    edits_of,
    sample_one_object,
    sample_two_objects,
)
from tests.picturebook.story_listener import scene_of_key

RED_HOUSE = SceneObject("house", "red", "left")
BLUE_BOAT = SceneObject("boat", "blue", "top")


def test_every_scene_is_there_once_and_found_again_by_its_key() -> None:
    keys = [scene.key for scene in all_scenes()]
    assert len(keys) == len(set(keys)) == 768 + 48_384
    assert [scene_of_key(key).key for key in keys[::97]] == keys[::97]
    assert len(all_combinations()) == len(set(all_combinations())) == 1_008


def test_what_looks_the_same_is_equal() -> None:
    scene = Scene((RED_HOUSE, BLUE_BOAT), "night")
    assert scene == Scene((BLUE_BOAT, RED_HOUSE), "night")
    assert scene.key == "night/left-red-house/top-blue-boat"
    assert scene.combination == (("house", "red"), ("boat", "blue"))
    assert Scene((RED_HOUSE,), "night").combination is None


@pytest.mark.parametrize(
    ("objects", "background"),
    [
        ((), "day"),
        ((RED_HOUSE, SceneObject("boat", "blue", "left")), "day"),
        ((RED_HOUSE, SceneObject("house", "blue", "top")), "day"),
        ((RED_HOUSE, BLUE_BOAT, SceneObject("cat", "pink", "right")), "day"),
        ((RED_HOUSE,), "desert"),
    ],
)
def test_what_cannot_be_is_refused(objects: tuple[SceneObject, ...], background: str) -> None:
    with pytest.raises(SceneError):
        Scene(objects, background)


@pytest.mark.parametrize("words", [("horse", "red", "left"), ("house", "grey", "left"), ("house", "red", "middle")])
def test_unknown_words_are_refused(words: tuple[str, str, str]) -> None:
    with pytest.raises(SceneError, match="is none of"):
        SceneObject(*words)


def test_edits_differ_in_one_attribute_only() -> None:
    scene = Scene((RED_HOUSE, BLUE_BOAT), "night")
    edits = edits_of(scene)
    assert len(edits) == len(set(edits)) == 3 + 2 * (6 + 5 + 2)
    for edit in edits:
        words, others = set(scene.key.replace("/", "-").split("-")), set(edit.key.replace("/", "-").split("-"))
        assert len(words - others) <= 1


def test_sampling_follows_the_generator() -> None:
    first, second = np.random.default_rng(7), np.random.default_rng(7)
    combination = all_combinations()[500]
    for _ in range(20):
        assert sample_one_object(first) == sample_one_object(second)
        scene = sample_two_objects(first, combination)
        assert scene == sample_two_objects(second, combination)
        assert scene.combination == combination
