"""What is so after each sentence of a story is known exactly."""

import numpy as np
import pytest

from picturebook.world.caption_grammar import describe, parse_caption
from picturebook.world.events import CHANGE_BACKGROUND, JOIN, LEAVE, MOVE, SWAP, TURN, after
from picturebook.world.partial_scene import fully_known
from picturebook.world.scene import all_combinations
from picturebook.world.story_sampling import SENTENCES, possible_events, sample_story
from tests.picturebook.story_listener import StoryError, fits, follow_story

HOUSE = "a red house on the left at night ."
BOTH = "a red house on the left and a blue boat at the top at night ."


@pytest.fixture(scope="module")
def stories() -> list:
    generator, every = np.random.default_rng(0), frozenset(all_combinations())
    return [sample_story(generator, every, share) for share in (0.0, 0.12, 0.5) for _ in range(200)]


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
def test_events_do_what_they_say(text: str, state: str | None) -> None:
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
def test_what_cannot_be_said_is_not_understood(sentence: str) -> None:
    with pytest.raises(StoryError):
        follow_story(f"{BOTH} {sentence}")


def test_a_lonely_thing_does_not_leave_or_swap() -> None:
    for sentence in ("it leaves", "they swap places", "they turn blue"):
        with pytest.raises(StoryError):
            follow_story(f"{HOUSE} {sentence} .")


def test_listeners_understand_every_story_as_it_was_meant(stories: list) -> None:
    for story in stories:
        assert len(story.sentences) == len(story.scenes) == len(story.listener) == SENTENCES
        assert tuple(follow_story(story.text)) == story.listener, story.text
        assert all(fits(listener.known, scene) for listener, scene in zip(story.listener, story.scenes, strict=True))


def test_the_last_scene_follows_from_sentences_and_images(stories: list) -> None:
    for story in stories:
        assert story.known(SENTENCES - 1, images=True).scene() == story.scenes[-1]
        if story.complete:
            assert story.listener[-1].known.scene() == story.scenes[-1]


def test_stories_that_leave_nothing_out_tell_everything(stories: list) -> None:
    assert all(story.complete for story in stories[:200])
    assert all(listener.known.complete for story in stories[:200] for listener in story.listener)
    shares = [np.mean([story.complete for story in stories[start : start + 200]]) for start in (200, 400)]
    assert 0.5 < shares[0] < 0.8 and shares[1] < 0.2


def test_every_sentence_changes_the_scene_and_two_things_are_there_once(stories: list) -> None:
    for story in stories:
        assert all(one != other for one, other in zip(story.scenes, story.scenes[1:], strict=False))
        assert any(len(scene.objects) == 2 for scene in story.scenes)
        assert parse_caption(story.sentences[-1]) is None


def test_all_kinds_of_events_happen(stories: list) -> None:
    happened = [event.what for story in stories for event in story.events]
    for what in (TURN, MOVE, SWAP, JOIN, LEAVE, CHANGE_BACKGROUND):
        assert happened.count(what) / len(happened) > 0.05, what
    assert any(len(event.kinds) == 2 for story in stories for event in story.events)


def test_possible_events_all_lead_to_other_scenes(stories: list) -> None:
    for story in stories[:20]:
        known = fully_known(story.scenes[0])
        for what in ("turn", "turn both", "move", "swap", "leave", "join", "background"):
            for event in possible_events(known, what):
                assert after(event, known).scene() != story.scenes[0]
