"""What weak models are shown most of the time is little enough to be learnt, and has something to decide about."""

from picturebook.world.edits import scenes_with_edits
from picturebook.world.familiar import FAMILIAR, FAMILIAR_KIND
from picturebook.world.pairs import PairMixture, sample_pairs
from picturebook.world.prompts import sample_asked
from picturebook.world.scene_subsets import is_ordinary, library_scenes
from picturebook.world.splits import SPLITS, TRAIN, scene_in, stream


def test_familiar_scenes_are_few_and_some_have_an_image_in_the_library() -> None:
    assert len({*FAMILIAR}) == len(FAMILIAR) == 32
    ordinary = {scene for scene in FAMILIAR if is_ordinary(scene)}
    assert len(ordinary) == 12 and ordinary < {*library_scenes(familiar=True)}


def test_the_small_library_is_of_the_familiar_kind_alone() -> None:
    scenes = library_scenes(familiar=True)
    assert len({*scenes}) == len(scenes) == 48 and {*scenes} < {*library_scenes()}
    assert {tuple(thing.kind for thing in scene.things) for scene in scenes} == {(FAMILIAR_KIND,)}


def test_as_many_scenes_are_familiar_as_were_asked_for() -> None:
    shares = {
        share: sum(
            scene in FAMILIAR
            for scene in sample_pairs(TRAIN, 400, stream(0, TRAIN, "familiar"), PairMixture(familiar=share)).scenes
        )
        / 400
        for share in (0.0, 0.5, 1.0)
    }
    assert shares[0.0] < 0.1 and 0.4 < shares[0.5] < 0.65 and shares[1.0] == 1
    scenes = scenes_with_edits(TRAIN, 20, 4, stream(0, TRAIN, "familiar"), familiar=1.0)
    assert len(scenes) == 80 and {*scenes[::4]} <= {*FAMILIAR} and not {*scenes} <= {*FAMILIAR}


def test_a_world_in_which_nothing_is_familiar_is_drawn_as_ever() -> None:
    some, same = (
        [scene_in(TRAIN, generator, *more) for _ in range(50)]
        for generator, more in ((stream(0, TRAIN, "as ever"), ()), (stream(0, TRAIN, "as ever"), (0.3, 0.0)))
    )
    assert some == same


def test_familiar_prompts_of_two_splits_share_no_words_and_are_ordinary_as_often_as_asked() -> None:
    words = {}
    for split in SPLITS:
        asked = sample_asked(split, 80, stream(0, split, "familiar"), ordinary=0.5, familiar=True)
        assert all(one.scene in FAMILIAR for one in asked)
        assert 25 < sum(is_ordinary(one.scene) for one in asked) < 55
        words[split] = {one.prompt for one in asked}
    assert not any(words[one] & words[other] for one in SPLITS for other in SPLITS if one < other)
