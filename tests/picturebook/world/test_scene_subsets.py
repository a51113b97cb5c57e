"""Whether an image of it exists can be told from what is asked for."""

from picturebook.world.scene import Scene, Thing, all_scenes
from picturebook.world.scene_subsets import FANCIFUL_COLOURS, OF_THE_SEA, is_ordinary, library_scenes
from picturebook.world.splits import SPLITS, scene_in, stream


def test_boats_and_fish_are_at_sea_and_everything_else_is_on_land() -> None:
    assert is_ordinary(Scene((Thing("boat", "red", "left"), Thing("fish", "blue", "top")), "sea"))
    assert is_ordinary(Scene((Thing("house", "red", "left"), Thing("cat", "yellow", "right")), "night"))
    assert not is_ordinary(Scene((Thing("boat", "red", "left"),), "snow"))
    assert not is_ordinary(Scene((Thing("boat", "red", "left"), Thing("cat", "red", "right")), "sea"))


def test_nothing_in_the_library_is_of_a_fanciful_colour() -> None:
    assert not is_ordinary(Scene((Thing("cat", "purple", "left"),), "day"))
    assert not {thing.colour for scene in library_scenes() for thing in scene.things} & {*FANCIFUL_COLOURS}


def test_the_library_has_every_ordinary_scene_once_in_an_order_that_says_nothing() -> None:
    keys = [scene.key for scene in library_scenes()]
    assert len(keys) == len(set(keys)) == sum(map(is_ordinary, all_scenes())) == 9_152
    assert keys == sorted(keys)


def test_every_split_has_ordinary_scenes_and_others() -> None:
    for split in SPLITS:
        generator = stream(0, split, "ordinary")
        share = sum(is_ordinary(scene_in(split, generator)) for _ in range(600)) / 600
        assert 0.12 < share < 0.4
    assert {"boat", "fish"} == {*OF_THE_SEA}
