"""Decisions are measured by macro F1 and by right answers."""

from dataclasses import replace

import pytest

from picturebook.report.decision_table import (
    BEST,
    GENERATE,
    HIGHER,
    LEARNED,
    PROBABILITY,
    RETRIEVE,
    THRESHOLD,
    best_threshold,
    decision_table,
)
from picturebook.world.splits import TEST, VALIDATION
from tests.picturebook.answered_prompts import BOTH, DRAWN, FOUND


def test_a_good_decision_has_more_right_answers_than_either_way_alone() -> None:
    rows = decision_table({VALIDATION: FOUND + DRAWN, TEST: FOUND + DRAWN + BOTH}).rows
    assert rows[LEARNED]["macro F1"].value == rows[THRESHOLD]["macro F1"].value == 1
    assert rows[GENERATE]["macro F1"].value == pytest.approx(0.4)
    assert [rows[name]["answers right"].value for name in (GENERATE, RETRIEVE, LEARNED, BEST)] == [0.75, 0.5, 1, 1]


def test_the_threshold_is_chosen_on_other_prompts() -> None:
    assert best_threshold(FOUND + DRAWN) == 9.0
    assert best_threshold(BOTH) == float("inf")


def test_scores_and_probabilities_decide_too() -> None:
    # Both images are scored, and the retrieved one is right where its score is the higher one.
    found = [replace(answer, generated_score=2.0, probability=0.4) for answer in FOUND]
    drawn = [replace(answer, generated_score=8.0, probability=0.1) for answer in DRAWN]
    rows = decision_table({VALIDATION: found + drawn, TEST: found + drawn}).rows
    assert rows[HIGHER]["macro F1"].value == rows[PROBABILITY]["macro F1"].value == 1
