"""Sentences of events change what a listener knows as they say."""

import pytest

from picturebook.world.caption_grammar import describe
from picturebook.world.story_listener import StoryError, follow_story

HOUSE = "a red house on the left at night ."


BOTH = "a red house on the left and a blue boat at the top at night ."


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (f"{HOUSE} then it turns blue . picture :", "a blue house on the left at night"),
        (f"{HOUSE} the house becomes pink .", "a pink house on the left at night"),
        (f"{HOUSE} it moves to the top .", "a red house at the top at night"),
        (f"{HOUSE} soon it goes to the right .", "a red house on the right at night"),
        (f"{HOUSE} the sun rises .", "a red house on the left by day"),
        (f"{HOUSE} now snow falls .", "a red house on the left in the snow"),
        (f"{HOUSE} the sea comes . night falls .", HOUSE.removesuffix(" .")),
        (f"{HOUSE} a green cat joins it at the top .", "a red house on the left and a green cat at the top at night"),
        (f"{HOUSE} a green cat appears at the top .", "a red house on the left and a green cat at the top at night"),
        (f"{BOTH} they swap places .", "a red house at the top and a blue boat on the left at night"),
        (f"{BOTH} they change places . they swap places .", BOTH.removesuffix(" .")),
        (f"{BOTH} they turn green .", "a green house on the left and a green boat at the top at night"),
        (f"{BOTH} the house leaves .", "a blue boat at the top at night"),
        (f"{BOTH} the boat goes away . it turns green .", "a green house on the left at night"),
        (
            f"{BOTH} the boat turns pink . it moves to the right .",
            "a red house on the left and a pink boat on the right at night",
        ),
        (
            f"{BOTH} the boat turns pink . snow falls . it turns red .",
            "a red house on the left and a red boat at the top in the snow",
        ),
        (f"{HOUSE} picture : {HOUSE} it leaves the rest out", None),
        # What is told of vaguely is not known afterwards.
        (f"{HOUSE} it changes colour .", "a house on the left at night"),
        (f"{HOUSE} it moves .", "a red house at night"),
        (f"{HOUSE} the scene changes .", "a red house on the left"),
        (f"{HOUSE} a cat joins it . they swap places .", "a red house and a cat on the left at night"),
        ("a house at night . it turns blue .", "a blue house at night"),
    ],
)
def test_sentences_change_the_known_scene_as_they_say(text: str, state: str | None) -> None:
    if state is None:
        with pytest.raises(StoryError):
            follow_story(text)
    else:
        assert describe(follow_story(text)[-1].known) == state


@pytest.mark.parametrize(
    "sentence",
    [
        "it turns blue .",  # Either could be meant.
        "the car turns blue .",
        "the boat joins it .",
        "a pink boat appears .",  # There is one.
        "the boat turn blue .",
        "they turns blue .",
        "the boat moves to the middle .",
        "a green cat joins the car .",
    ],
)
def test_impossible_events_are_not_understood(sentence: str) -> None:
    with pytest.raises(StoryError):
        follow_story(f"{BOTH} {sentence}")


def test_a_single_object_neither_leaves_nor_swaps() -> None:
    for sentence in ("it leaves", "they swap places", "they turn blue"):
        with pytest.raises(StoryError):
            follow_story(f"{HOUSE} {sentence} .")
