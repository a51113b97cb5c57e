"""Scenes are exactly what the rules allow, each with a key of its own; subsets of scenes are what prompts say."""

from collections import Counter

import numpy as np
import pytest

from picturebook.world.pairs import PairMixture, sample_pairs
from picturebook.world.prompts import sample_prompts
from picturebook.world.scene import (
    FAST_KIND,
    FAST_SCENES,
    SEA_KINDS,
    UNRETRIEVABLE_COLOURS,
    Scene,
    SceneError,
    SceneObject,
    all_combinations,
    all_scenes,
    edits_of,
    is_retrievable,
    retrievable_scenes,
    sample_one_object,
    sample_two_objects,
    shuffled_edits,
    swaps_of,
)
from picturebook.world.splits import SPLITS, TRAIN, scene_in, scenes_with_edits, stream
from tests.picturebook.scene_keys import scene_of_key

RED_HOUSE = SceneObject("house", "red", "left")


BLUE_BOAT = SceneObject("boat", "blue", "top")


def test_all_scenes_are_different_and_have_keys_of_their_own() -> None:
    keys = [scene.key for scene in all_scenes()]
    assert len(keys) == len(set(keys)) == 768 + 48_384
    assert [scene_of_key(key).key for key in keys[::97]] == keys[::97]
    assert len(all_combinations()) == len(set(all_combinations())) == 1_008


def test_scenes_that_look_the_same_are_equal() -> None:
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
def test_impossible_scenes_are_refused(objects: tuple[SceneObject, ...], background: str) -> None:
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


def test_boats_and_fish_are_retrievable_at_sea_and_everything_else_on_land() -> None:
    assert is_retrievable(Scene((SceneObject("boat", "red", "left"), SceneObject("fish", "blue", "top")), "sea"))
    assert is_retrievable(Scene((SceneObject("house", "red", "left"), SceneObject("cat", "yellow", "right")), "night"))
    assert not is_retrievable(Scene((SceneObject("boat", "red", "left"),), "snow"))
    assert not is_retrievable(Scene((SceneObject("boat", "red", "left"), SceneObject("cat", "red", "right")), "sea"))


def test_purple_and_pink_objects_are_not_retrievable() -> None:
    assert not is_retrievable(Scene((SceneObject("cat", "purple", "left"),), "day"))
    assert not {obj.colour for scene in retrievable_scenes() for obj in scene.objects} & {*UNRETRIEVABLE_COLOURS}


def test_the_retrieval_set_has_every_retrievable_scene_once_sorted_by_key() -> None:
    keys = [scene.key for scene in retrievable_scenes()]
    assert len(keys) == len(set(keys)) == sum(map(is_retrievable, all_scenes())) == 9_152
    assert keys == sorted(keys)


def test_every_split_has_retrievable_scenes_and_others() -> None:
    for split in SPLITS:
        generator = stream(0, split, "ordinary")
        share = sum(is_retrievable(scene_in(split, generator)) for _ in range(600)) / 600
        assert 0.12 < share < 0.4
    assert {"boat", "fish"} == {*SEA_KINDS}


def test_fast_scenes_are_few_and_some_of_them_retrievable() -> None:
    assert len({*FAST_SCENES}) == len(FAST_SCENES) == 32
    retrievable = {scene for scene in FAST_SCENES if is_retrievable(scene)}
    assert len(retrievable) == 12 and retrievable < {*retrievable_scenes(fast=True)}


def test_the_retrieval_set_of_fast_runs_has_the_fast_kind_only() -> None:
    scenes = retrievable_scenes(fast=True)
    assert len({*scenes}) == len(scenes) == 48 and {*scenes} < {*retrievable_scenes()}
    assert {tuple(obj.kind for obj in scene.objects) for scene in scenes} == {(FAST_KIND,)}


def test_as_many_scenes_are_familiar_as_were_asked_for() -> None:
    shares = {
        share: sum(
            scene in FAST_SCENES
            for scene in sample_pairs(TRAIN, 400, stream(0, TRAIN, "familiar"), PairMixture(fast=share)).scenes
        )
        / 400
        for share in (0.0, 0.5, 1.0)
    }
    assert shares[0.0] < 0.1 and 0.4 < shares[0.5] < 0.65 and shares[1.0] == 1
    scenes = scenes_with_edits(TRAIN, 20, 4, stream(0, TRAIN, "familiar"), fast=1.0)
    assert len(scenes) == 80 and {*scenes[::4]} <= {*FAST_SCENES} and not {*scenes} <= {*FAST_SCENES}


def test_a_world_in_which_nothing_is_familiar_is_drawn_as_ever() -> None:
    some, same = (
        [scene_in(TRAIN, generator, *more) for _ in range(50)]
        for generator, more in ((stream(0, TRAIN, "as ever"), ()), (stream(0, TRAIN, "as ever"), (0.3, 0.0)))
    )
    assert some == same


def test_familiar_prompts_of_two_splits_share_no_words_and_are_ordinary_as_often_as_asked() -> None:
    words = {}
    for split in SPLITS:
        asked = sample_prompts(split, 80, stream(0, split, "familiar"), retrievable=0.5, fast=True)
        assert all(one.scene in FAST_SCENES for one in asked)
        assert 25 < sum(is_retrievable(one.scene) for one in asked) < 55
        words[split] = {one.prompt for one in asked}
    assert not any(words[one] & words[other] for one in SPLITS for other in SPLITS if one < other)


TWO = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")


def test_scenes_with_swapped_places_and_colours_are_among_the_edits() -> None:
    assert {one.key for one in swaps_of(TWO)} == {
        "night/left-blue-boat/top-red-house",
        "night/left-blue-house/top-red-boat",
    }
    assert swaps_of(Scene(TWO.objects[:1], "night")) == []


def test_the_first_edits_are_one_of_every_sort() -> None:
    first = shuffled_edits(TWO, stream(0, TRAIN, "edits"))[:5]
    assert len({one.key for one in first} | {TWO.key}) == 6
    changed = Counter(
        "background" if one.background != TWO.background else tuple(sorted(obj.kind for obj in one.objects))
        for one in first
    )
    assert changed["background"] == 1
