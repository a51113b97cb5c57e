"""Whether an image of it exists can be told from what is asked for."""

from picturebook.world.pairs import PairMixture, sample_pairs
from picturebook.world.prompts import sample_prompts
from picturebook.world.scene import (
    FAST_KIND,
    FAST_SCENES,
    SEA_KINDS,
    UNRETRIEVABLE_COLOURS,
    Scene,
    SceneObject,
    all_scenes,
    is_retrievable,
    retrievable_scenes,
)
from picturebook.world.splits import SPLITS, TRAIN, scene_in, scenes_with_edits, stream


def test_boats_and_fish_are_at_sea_and_everything_else_is_on_land() -> None:
    assert is_retrievable(Scene((SceneObject("boat", "red", "left"), SceneObject("fish", "blue", "top")), "sea"))
    assert is_retrievable(Scene((SceneObject("house", "red", "left"), SceneObject("cat", "yellow", "right")), "night"))
    assert not is_retrievable(Scene((SceneObject("boat", "red", "left"),), "snow"))
    assert not is_retrievable(Scene((SceneObject("boat", "red", "left"), SceneObject("cat", "red", "right")), "sea"))


def test_nothing_in_the_library_is_of_a_fanciful_colour() -> None:
    assert not is_retrievable(Scene((SceneObject("cat", "purple", "left"),), "day"))
    assert not {obj.colour for scene in retrievable_scenes() for obj in scene.objects} & {*UNRETRIEVABLE_COLOURS}


def test_the_library_has_every_ordinary_scene_once_in_an_order_that_says_nothing() -> None:
    keys = [scene.key for scene in retrievable_scenes()]
    assert len(keys) == len(set(keys)) == sum(map(is_retrievable, all_scenes())) == 9_152
    assert keys == sorted(keys)


def test_every_split_has_ordinary_scenes_and_others() -> None:
    for split in SPLITS:
        generator = stream(0, split, "ordinary")
        share = sum(is_retrievable(scene_in(split, generator)) for _ in range(600)) / 600
        assert 0.12 < share < 0.4
    assert {"boat", "fish"} == {*SEA_KINDS}


def test_familiar_scenes_are_few_and_some_have_an_image_in_the_library() -> None:
    assert len({*FAST_SCENES}) == len(FAST_SCENES) == 32
    retrievable = {scene for scene in FAST_SCENES if is_retrievable(scene)}
    assert len(retrievable) == 12 and retrievable < {*retrievable_scenes(fast=True)}


def test_the_small_library_is_of_the_familiar_kind_alone() -> None:
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
