"""Scenes are exactly what the rules allow, and each is known by one key and one number."""

import numpy as np
import pytest

from picturebook.world.scene import (
    Scene,
    SceneError,
    Thing,
    all_combinations,
    all_scenes,
    edits_of,
    sample_one,
    sample_two,
    scene_numbers,
    scene_of_key,
)

RED_HOUSE = Thing("house", "red", "left")
BLUE_BOAT = Thing("boat", "blue", "top")


def test_every_scene_is_there_once_and_found_again_by_its_key() -> None:
    keys = [scene.key for scene in all_scenes()]
    assert len(keys) == len(set(keys)) == len(scene_numbers()) == 768 + 48_384
    assert [scene_of_key(key).key for key in keys[::97]] == keys[::97]
    assert len(all_combinations()) == len(set(all_combinations())) == 1_008


def test_what_looks_the_same_is_equal() -> None:
    scene = Scene((RED_HOUSE, BLUE_BOAT), "night")
    assert scene == Scene((BLUE_BOAT, RED_HOUSE), "night")
    assert scene.key == "night/left-red-house/top-blue-boat"
    assert scene.combination == (("house", "red"), ("boat", "blue"))
    assert Scene((RED_HOUSE,), "night").combination is None


@pytest.mark.parametrize(
    ("things", "background"),
    [
        ((), "day"),
        ((RED_HOUSE, Thing("boat", "blue", "left")), "day"),
        ((RED_HOUSE, Thing("house", "blue", "top")), "day"),
        ((RED_HOUSE, BLUE_BOAT, Thing("cat", "pink", "right")), "day"),
        ((RED_HOUSE,), "desert"),
    ],
)
def test_what_cannot_be_is_refused(things: tuple[Thing, ...], background: str) -> None:
    with pytest.raises(SceneError):
        Scene(things, background)


@pytest.mark.parametrize("words", [("horse", "red", "left"), ("house", "grey", "left"), ("house", "red", "middle")])
def test_unknown_words_are_refused(words: tuple[str, str, str]) -> None:
    with pytest.raises(SceneError, match="is none of"):
        Thing(*words)


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
        assert sample_one(first) == sample_one(second)
        scene = sample_two(first, combination)
        assert scene == sample_two(second, combination)
        assert scene.combination == combination
