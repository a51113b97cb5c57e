"""Table 2: whether the model decides well, and what its decisions are worth."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from evaluation_gill.decisions import DECISIONS, LABELS, macro_f1
from pipeline_gill import GillPipeline

from ..models.gill_answers import AnsweredBothWays, answer_both_ways
from ..world.prompts import sample_prompts
from ..world.splits import TEST, VALIDATION, stream
from .results_table import Table, mean_of, statistic_of

LEARNT, THRESHOLD, GENERATE, RETRIEVE = (
    "learned decision",
    "threshold on the retrieval score",
    "always generate",
    "always retrieve",
)
BEST = "the better image, if known"
_COLUMNS = ("macro F1", "answers right")
_GENERATE, _RETRIEVE = range(2)


def answer_decision_items(pipe: GillPipeline, items: int, seed: int) -> dict[str, list[AnsweredBothWays]]:
    """Prompts of the test split answered both ways, and half as many of validation, to choose the threshold on."""
    return {
        split: answer_both_ways(pipe, sample_prompts(split, number, stream(seed, split, "decision table")), seed)
        for split, number in ((VALIDATION, items // 2), (TEST, items))
    }


def decision_table(answered: dict[str, list[AnsweredBothWays]]) -> Table:
    """Table 2."""
    tested = answered[TEST]
    threshold = best_threshold(answered[VALIDATION])
    deciders: dict[str, Callable[[AnsweredBothWays], int]] = {
        GENERATE: lambda one: _GENERATE,
        RETRIEVE: lambda one: _RETRIEVE,
        THRESHOLD: lambda one: _RETRIEVE if one.score >= threshold else _GENERATE,
        LEARNT: lambda one: _RETRIEVE if one.decided == "retrieve" else _GENERATE,
    }
    labelled = [one for one in tested if one.label in DECISIONS]
    true = np.array([DECISIONS.index(one.label) for one in labelled])
    rows = {}
    for name, decide in deciders.items():
        predicted = np.array([decide(one) for one in labelled])
        rows[name] = {
            "macro F1": statistic_of(len(true), partial(_macro_f1_of, predicted, true)),
            "answers right": mean_of(rightness(tested, [decide(one) for one in tested])),
        }
    rows[BEST] = {"answers right": mean_of(np.array([one.retrieved or one.generated for one in tested]))}
    counts = {label: sum(one.label == label for one in tested) for label in LABELS}
    return Table(
        "decision",
        "Retrieve or generate, %",
        _COLUMNS,
        rows,
        f"{len(tested)} prompts of the test split (captions, stories, dialogues in turn; half of them of retrievable "
        f"scenes). Only the generated image is right for {counts['generate']}, only the retrieved one for "
        f"{counts['retrieve']}, both or neither for {counts['tie']}. Macro F1 is over the first two, as in the paper; "
        "right answers are counted over all. The threshold is the best one on prompts of the validation split.",
    )


def _macro_f1_of(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> float:
    return macro_f1(predicted[drawn], true[drawn])


def best_threshold(answered: Sequence[AnsweredBothWays]) -> float:
    """The retrieval score from which on retrieving gives the highest macro F1."""
    labelled = [one for one in answered if one.label in DECISIONS]
    if not labelled:
        return float("inf")
    scores = np.array([one.score for one in labelled])
    true = np.array([DECISIONS.index(one.label) for one in labelled])
    return float(max(np.unique(scores), key=lambda least: macro_f1((scores >= least).astype(int), true)))


def rightness(answered: Sequence[AnsweredBothWays], decisions: Sequence[int]) -> np.ndarray:
    """Whether each answer's image is right, if decided so."""
    return np.array(
        [
            one.retrieved if decision == _RETRIEVE else one.generated
            for one, decision in zip(answered, decisions, strict=True)
        ]
    )
