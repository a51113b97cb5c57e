"""Captions say what is known and nothing else, and are understood again."""

import numpy as np
import pytest

from picturebook.world.caption_grammar import all_forms, caption, describe, leave_out, parse_caption, shuffled, tags
from picturebook.world.partial_scene import PartialObject, PartialScene, fully_known
from picturebook.world.scene import Scene, SceneObject, all_scenes
from picturebook.world.story_listener import fits

SCENE = Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night")


def test_the_plain_form_reads_as_in_the_readme() -> None:
    known = fully_known(SCENE)
    assert describe(known) == "a red house on the left and a blue boat at the top at night"
    assert tags(known) == "night red house left blue boat top"
    assert describe(fully_known(SCENE, ("boat", "house"))).startswith("a blue boat at the top and")
    assert (
        describe(fully_known(Scene((SceneObject("cat", "pink", "bottom"),), "snow")))
        == "a pink cat at the bottom in the snow"
    )


def test_complete_captions_in_every_form_are_parsed_as_their_scene() -> None:
    for scene in tuple(all_scenes())[::41]:
        for form in all_forms(fully_known(scene)):
            known = parse_caption(form)
            assert known is not None and known.complete and known.scene() == scene, form


def test_incomplete_captions_are_parsed_as_what_they_say() -> None:
    generator = np.random.default_rng(0)
    for scene in tuple(all_scenes())[::41]:
        known = leave_out(shuffled(fully_known(scene), generator), generator, 0.4)
        assert fits(known, scene)
        for form in {*all_forms(known), caption(known, generator), describe(known)}:
            assert parse_caption(form) == known, form


def test_attributes_that_a_caption_leaves_out_are_not_known() -> None:
    assert parse_caption("a thing on the left and a blue thing") == PartialScene(
        (PartialObject(place="left"), PartialObject(colour="blue"))
    )
    known = parse_caption("a house and a boat at sea")
    assert known is not None and not known.complete and not fits(known, SCENE)
    assert fits(known, Scene(SCENE.objects, "sea"))
    assert not fits(known, Scene(SCENE.objects[:1], "sea"))


def test_captions_are_parsed_whatever_their_case_and_spaces() -> None:
    known = parse_caption("At night, a RED house on the left.")
    assert known == PartialScene((PartialObject("house", "red", "left"),), "night")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red house on the top",
        "a house red on the left",
        "a red house on the left by night",
        "a red house and a red house",
        "a red house on the left and a blue boat on the left",
        "a red house a blue boat",
        "a red house and a blue boat and a pink cat",
        "a grey horse at night",
        "it turns blue",
    ],
)
def test_other_texts_are_no_captions(text: str) -> None:
    assert parse_caption(text) is None


def test_leaving_out_never_leaves_out_everything() -> None:
    generator = np.random.default_rng(0)
    known = fully_known(Scene((SceneObject("cat", "pink", "bottom"),), "snow"))
    assert all(leave_out(known, generator, 1.0) != PartialScene((PartialObject(),)) for _ in range(50))
