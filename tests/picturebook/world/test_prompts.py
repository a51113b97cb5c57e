"""Prompts of every kind, with the scene that their image must show."""

import numpy as np

from picturebook.world.pairs import illustrated_stories
from picturebook.world.prompts import CAPTION, DIALOGUE, STORY, sample_prompts, story_prompt
from picturebook.world.scene import is_retrievable
from picturebook.world.splits import TEST, stream


def test_prompts_are_of_every_kind_and_half_of_them_retrievable() -> None:
    asked = sample_prompts(TEST, 90, stream(0, TEST, "asked"))
    assert [one.kind for one in asked[:3]] == [CAPTION, STORY, DIALOGUE]
    assert 0.3 < np.mean([is_retrievable(one.scene) for one in asked]) < 0.7
    assert all(one.prompt.endswith("picture :") for one in asked if one.kind != CAPTION)


def test_the_prompt_of_a_story_has_its_images_or_not() -> None:
    story, images = illustrated_stories(TEST, 1)[0]
    assert story_prompt(story) == [f"{story.text} picture :"]
    assert story_prompt(story, sentences=1) == [f"{story.sentences[-1]} . picture :"]
    pieces = story_prompt(story, images)
    assert [isinstance(piece, str) for piece in pieces] == [True, False] * 4 + [True]
