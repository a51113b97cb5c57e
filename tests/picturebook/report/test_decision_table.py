"""What decisions are worth, judged on answers that were made both ways."""

import numpy as np
import pytest

from evaluation_gill.decisions import read_annotations
from picturebook.models.gill_answers import AnsweredBothWays, judge
from picturebook.report.decision_table import (
    BEST,
    GENERATE,
    LEARNED,
    RETRIEVE,
    THRESHOLD,
    best_threshold,
    decision_table,
)
from picturebook.stages.train_decision import write_annotations
from picturebook.world.drawing import draw, to_images
from picturebook.world.pairs import illustrated_stories
from picturebook.world.prompts import CAPTION, DIALOGUE, STORY, ImagePrompt, sample_prompts, story_prompt
from picturebook.world.scene import Scene, SceneObject, is_retrievable
from picturebook.world.splits import TEST, VALIDATION, stream
from pipeline_gill import GillImage

SCENE = Scene((SceneObject("house", "red", "left"),), "night")
ASKED = ImagePrompt("a red house on the left at night", CAPTION, SCENE)


def answered(retrieved: bool, generated: bool, score: float, decided: str) -> AnsweredBothWays:
    return AnsweredBothWays(ASKED, "", retrieved, generated, score, decided)


FOUND = [answered(True, False, 9.0, "retrieve")] * 10
DRAWN = [answered(False, True, 3.0, "generate")] * 20
BOTH = [answered(True, True, 6.0, "generate")] * 10


def test_a_vote_is_for_the_image_that_alone_is_right() -> None:
    assert [one[0].label for one in (FOUND, DRAWN, BOTH)] == ["retrieve", "generate", "tie"]
    assert answered(False, False, 0.0, "generate").label == "tie"


def test_deciding_well_is_worth_more_than_either_way_alone() -> None:
    rows = decision_table({VALIDATION: FOUND + DRAWN, TEST: FOUND + DRAWN + BOTH}).rows
    assert rows[LEARNED]["macro F1"].value == rows[THRESHOLD]["macro F1"].value == 1
    assert rows[GENERATE]["macro F1"].value == pytest.approx(0.4)
    assert [rows[name]["answers right"].value for name in (GENERATE, RETRIEVE, LEARNED, BEST)] == [0.75, 0.5, 1, 1]


def test_the_threshold_is_chosen_on_other_prompts() -> None:
    assert best_threshold(FOUND + DRAWN) == 9.0
    assert best_threshold(BOTH) == float("inf")


def test_the_reader_judges_and_no_image_is_wrong() -> None:
    def image(scene: Scene) -> GillImage:
        return GillImage(to_images(draw(scene)[None])[0], "generated", "generate")

    other = Scene(SCENE.objects, "day")
    assert judge([image(SCENE), image(other), None], [SCENE] * 3).tolist() == [True, False, False]


def test_annotations_are_a_file_that_the_decision_trains_on(tmp_path) -> None:
    write_annotations(tmp_path / "decisions.tsv", [FOUND[0], DRAWN[0], BOTH[0]])
    found = read_annotations(tmp_path / "decisions.tsv")
    assert [(one.prompt, one.label, one.category) for one in found] == [
        (ASKED.prompt, label, "caption") for label in ("retrieve", "generate", "tie")
    ]


def test_prompts_are_of_every_kind_and_half_of_them_ordinary() -> None:
    asked = sample_prompts(TEST, 90, stream(0, TEST, "asked"))
    assert [one.kind for one in asked[:3]] == [CAPTION, STORY, DIALOGUE]
    assert 0.3 < np.mean([is_retrievable(one.scene) for one in asked]) < 0.7
    assert all(one.prompt.endswith("picture :") for one in asked if one.kind != CAPTION)


def test_a_story_is_asked_for_with_its_images_or_without() -> None:
    story, images = illustrated_stories(TEST, 1)[0]
    assert story_prompt(story) == [f"{story.text} picture :"]
    assert story_prompt(story, sentences=1) == [f"{story.sentences[-1]} . picture :"]
    pieces = story_prompt(story, images)
    assert [isinstance(piece, str) for piece in pieces] == [True, False] * 4 + [True]
