"""Whole stories, judged image by image."""

from pathlib import Path

import numpy as np
import pytest

from picturebook.arguments import DreamTablesArguments
from picturebook.report.dream_table import WholeStory, judge_story, whole_story_table, write_dream_tables
from picturebook.world.drawing import draw
from picturebook.world.pairs import illustrated_stories
from picturebook.world.scene import Scene, SceneObject
from picturebook.world.splits import TEST
from picturebook.world.story_sampling import SENTENCES

RED = Scene((SceneObject("house", "red", "left"),), "night")
BLUE = Scene((SceneObject("house", "blue", "left"),), "night")
BLUE_RIGHT = Scene((SceneObject("house", "blue", "right"),), "night")
OPENING = "a red house on the left at night . picture :"


def test_an_image_is_right_where_it_shows_what_was_told_before_it() -> None:
    judged = judge_story([OPENING, "then it turns blue . picture :"], [RED, BLUE])
    assert judged.followed.tolist() == judged.right.tolist() == [True, True, False, False, False]
    assert judged.goes_on.tolist() == [False, True, False, False, False]


def test_what_an_image_keeps_of_the_one_before_is_judged_apart() -> None:
    # After a wrong image, one that is right for the text does not go on from it, and the other way round.
    texts = [OPENING, "then it turns blue . picture :"]
    judged = judge_story(texts, [BLUE_RIGHT, BLUE])
    assert judged.right[:2].tolist() == [False, True] and not judged.goes_on[1]
    judged = judge_story(texts, [BLUE_RIGHT, BLUE_RIGHT])
    assert not judged.right[1] and judged.goes_on[1]


def test_a_description_after_a_request_tells_nothing_of_its_own() -> None:
    judged = judge_story([OPENING, "then it turns blue . picture : a green house ."], [RED, BLUE])
    assert judged.right[1]


@pytest.mark.parametrize("text", ["the boat turns blue .", "house house .", ""])
def test_after_a_sentence_that_cannot_be_nothing_is_right(text: str) -> None:
    judged = judge_story([OPENING, text, "it turns blue ."], [RED, RED, BLUE])
    assert judged.right.tolist() == [True, not text, not text, False, False]


def test_an_image_that_the_reader_is_not_sure_of_is_not_right() -> None:
    judged = judge_story([OPENING, "it turns blue ."], [None, BLUE])
    assert judged.right[:2].tolist() == [False, True] and not judged.goes_on.any()


def test_true_stories_are_right_and_stories_that_end_early_are_not() -> None:
    stories = [
        WholeStory([f"{sentence} ." for sentence in story.sentences], images)
        for story, images in illustrated_stories(TEST, 10, 3)
    ]
    short = [WholeStory(story.texts[:2], story.images[:2]) for story in stories]
    rows = whole_story_table({"true": stories, "short": short}).rows
    assert all(estimate.value == 1 for estimate in rows["true"].values())
    assert whole_story_table({"true": stories}).note.startswith("10 stories of the test split.")
    assert whole_story_table({"true": stories[:1]}).note.startswith("1 story of the test split.")
    assert rows["short"]["2nd"].value == 1 and rows["short"]["3rd"].value == rows["short"]["all five"].value == 0
    assert rows["short"]["goes on from the image before"].value == pytest.approx(1 / (SENTENCES - 1))


def test_a_story_without_an_image_has_none_right() -> None:
    empty = WholeStory([], np.zeros((0, 32, 32, 3), dtype=np.uint8))
    true = WholeStory([OPENING], draw(RED)[None])
    assert whole_story_table({"some": [empty, true]}).rows["some"]["1st"].value == 0.5


@pytest.mark.slow
def test_the_tables_are_written_and_what_is_drawn_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = DreamTablesArguments(out=tmp_path, items=3)
    tables = write_dream_tables(arguments)
    assert [table.name for table in tables] == ["captions", "stories", "whole_stories"]
    assert capsys.readouterr().out.count("drawn: ") == 10
    again = write_dream_tables(arguments)
    assert [table.markdown() for table in again] == [table.markdown() for table in tables]
    assert "drawn: " not in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".md", ".json", ".png", ".txt"}
