"""Stories are understood from their words and images, and change with every sentence."""

import numpy as np
import pytest

from picturebook.world.caption_grammar import parse_caption
from picturebook.world.events import CHANGE_BACKGROUND, JOIN, LEAVE, MOVE, SWAP, TURN, after
from picturebook.world.partial_scene import fully_known
from picturebook.world.scene import all_combinations
from picturebook.world.story_listener import fits, follow_story
from picturebook.world.story_sampling import SENTENCES, possible_events, sample_story


@pytest.fixture(scope="module")
def stories() -> list:
    generator, every = np.random.default_rng(0), frozenset(all_combinations())
    return [sample_story(generator, every, share) for share in (0.0, 0.12, 0.5) for _ in range(200)]


def test_the_words_of_a_story_say_what_its_listener_knows(stories: list) -> None:
    for story in stories:
        assert len(story.sentences) == len(story.scenes) == len(story.listener) == SENTENCES
        assert tuple(follow_story(story.text)) == story.listener, story.text
        assert all(fits(listener.known, scene) for listener, scene in zip(story.listener, story.scenes, strict=True))


def test_the_last_scene_follows_from_sentences_and_images(stories: list) -> None:
    for story in stories:
        assert story.known(SENTENCES - 1, images=True).scene() == story.scenes[-1]
        if story.complete:
            assert story.listener[-1].known.scene() == story.scenes[-1]


def test_stories_that_leave_nothing_out_are_complete(stories: list) -> None:
    assert all(story.complete for story in stories[:200])
    assert all(listener.known.complete for story in stories[:200] for listener in story.listener)
    shares = [np.mean([story.complete for story in stories[start : start + 200]]) for start in (200, 400)]
    assert 0.5 < shares[0] < 0.8 and shares[1] < 0.2


def test_every_sentence_changes_the_scene_and_stories_have_two_objects_once(stories: list) -> None:
    for story in stories:
        assert all(one != other for one, other in zip(story.scenes, story.scenes[1:], strict=False))
        assert any(len(scene.objects) == 2 for scene in story.scenes)
        assert parse_caption(story.sentences[-1]) is None


def test_stories_have_events_of_every_kind(stories: list) -> None:
    happened = [event.what for story in stories for event in story.events]
    for what in (TURN, MOVE, SWAP, JOIN, LEAVE, CHANGE_BACKGROUND):
        assert happened.count(what) / len(happened) > 0.05, what
    assert any(len(event.kinds) == 2 for story in stories for event in story.events)


def test_possible_events_change_the_scene(stories: list) -> None:
    for story in stories[:20]:
        known = fully_known(story.scenes[0])
        for what in ("turn", "turn both", "move", "swap", "leave", "join", "background"):
            for event in possible_events(known, what):
                assert after(event, known).scene() != story.scenes[0]
