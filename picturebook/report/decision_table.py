"""Table 2: macro F1 of the decision between retrieval and generation, and the share of right answers."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluation_gill.decisions import macro_f1
from pipeline_gill import GillPipeline

from ..models.gill_answers import AnsweredBothWays, answer_both_ways
from ..models.image_generator import WEAKER
from ..world.prompts import sample_prompts
from ..world.splits import TEST, VALIDATION, stream
from .results_table import Table, mean_of, statistic_of

LEARNED, THRESHOLD = "learned decision", "threshold on the retrieval score"
DIFFERENCE, PROBABILITY = "threshold on the difference of both scores", "learned decision, threshold on its probability"
GENERATE, RETRIEVE, CHANCE = "always generate", "always retrieve", "by chance, as often as is right"
HIGHER = 'the higher retrieval score (`decision="score"`)'
BEST = "the better image, if known"
_COLUMNS = ("macro F1", "answers right")


def answer_decision_items(
    pipe: GillPipeline, items: int, seed: int, weaker: bool = False
) -> dict[str, list[AnsweredBothWays]]:
    """Prompts of the test split answered both ways, and half as many of validation, to choose the threshold on.

    Args:
        weaker (`bool`): Whether the image generator is weakened, so that deciding matters more.
    """
    options: dict[str, Any] = WEAKER if weaker else {}
    return {
        split: answer_both_ways(
            pipe, sample_prompts(split, number, stream(seed, split, "decision table")), seed, **options
        )
        for split, number in ((VALIDATION, items // 2), (TEST, items))
    }


def decision_table(answered: dict[str, list[AnsweredBothWays]], weaker: bool = False) -> Table:
    """Table 2."""
    tested = answered[TEST]
    labels = [answer.label for answer in answered[VALIDATION] if answer.label != "tie"]
    chance = labels.count("retrieve") / max(len(labels), 1)
    generated, retrieved, retrieves = (
        np.array([getattr(answer, name) for answer in tested]) for name in ("generated", "retrieved", "retrieves")
    )
    # Whether each decides to retrieve, `True` or 1 as in `evaluation_gill.decisions.DECISIONS`.
    decisions = {
        GENERATE: np.zeros(len(tested), dtype=bool),
        RETRIEVE: np.ones(len(tested), dtype=bool),
        CHANCE: stream(0, TEST, "decided by chance").random(len(tested)) < chance,
        HIGHER: np.array([difference_of(answer) > 0 for answer in tested]),
        THRESHOLD: _by_threshold(answered, lambda answer: answer.score),
        DIFFERENCE: _by_threshold(answered, difference_of),
        LEARNED: retrieves,
        PROBABILITY: _by_threshold(answered, lambda answer: answer.probability),
    }
    labelled = generated != retrieved
    rows = {
        name: {
            "macro F1": statistic_of(
                int(labelled.sum()), partial(_macro_f1_of, retrieve[labelled], retrieved[labelled])
            ),
            "answers right": mean_of(np.where(retrieve, retrieved, generated)),
        }
        for name, retrieve in decisions.items()
    }
    rows[BEST] = {"answers right": mean_of(retrieved | generated)}
    counts = Counter(answer.label for answer in tested)
    return Table(
        "decision_weaker" if weaker else "decision",
        "Retrieve, or generate in three steps without guidance, %" if weaker else "Retrieve or generate, %",
        _COLUMNS,
        rows,
        f"{len(tested)} prompts of the test split (captions, stories, dialogues in turn; half of them of retrievable "
        f"scenes). Only the generated image is right for {counts['generate']}, only the retrieved one for "
        f"{counts['retrieve']}, both or neither for {counts['tie']}. Macro F1 is over the first two, as in the paper; "
        "right answers are counted over all. Thresholds are the best ones on prompts of the validation split.",
    )


def _macro_f1_of(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> float:
    return macro_f1(predicted[drawn], true[drawn])


def difference_of(answer: AnsweredBothWays) -> float:
    """The retrieval score of the retrieved image less that of the generated one."""
    return answer.score - answer.generated_score


def _by_threshold(
    answered: dict[str, list[AnsweredBothWays]], value: Callable[[AnsweredBothWays], float]
) -> np.ndarray:
    least = best_threshold(answered[VALIDATION], value)
    return np.array([value(answer) for answer in answered[TEST]]) >= least


def best_threshold(
    answered: Sequence[AnsweredBothWays], value: Callable[[AnsweredBothWays], float] = lambda answer: answer.score
) -> float:
    """The value, by default the retrieval score, from which on retrieving gives the highest macro F1."""
    labelled = [answer for answer in answered if answer.label != "tie"]
    if not labelled:
        return float("inf")
    scores = np.array([value(answer) for answer in labelled])
    true = np.array([answer.retrieved for answer in labelled])
    return float(max(np.unique(scores), key=lambda least: macro_f1(scores >= least, true)))
