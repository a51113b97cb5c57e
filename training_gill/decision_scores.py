"""How well decisions, of a head or of single annotators, agree with what annotators agreed on."""

import numpy as np

from evaluation_gill.bootstrap import interval_of
from evaluation_gill.decision_annotations import Annotation

# In the order of the head's outputs.
DECISIONS = ("gen", "ret")


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over both classes of the F1 score, of class numbers `(n,)`; a class that never comes up scores 0."""
    scores = []
    for kind in range(len(DECISIONS)):
        hits = int(((predicted == kind) & (true == kind)).sum())
        wrong = int((predicted == kind).sum() + (true == kind).sum()) - 2 * hits
        scores.append(2 * hits / (2 * hits + wrong) if hits + wrong else 0.0)
    return float(np.mean(scores))


def bootstrap_interval(predicted: np.ndarray, true: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % interval of [`macro_f1`], from draws of the prompts with replacement; the score itself for one prompt."""
    interval = interval_of(len(true), lambda drawn: macro_f1(predicted[drawn], true[drawn]), seed)
    return interval or (macro_f1(predicted, true),) * 2


def human_agreement(annotations: list[Annotation]) -> float | None:
    """Macro F1 of single annotators' votes, pooled, against what all agreed on; `None` where there are no votes.

    Votes for `same` take no side and are left out. Over the prompts of the paper this is its 0.851.
    """
    pairs = [
        (DECISIONS.index(vote), DECISIONS.index(one.label))
        for one in annotations
        if one.label in DECISIONS
        for vote in one.votes
        if vote in DECISIONS
    ]
    if not pairs:
        return None
    votes, labels = np.array(pairs).T
    return macro_f1(votes, labels)


__all__ = ["DECISIONS", "bootstrap_interval", "human_agreement", "macro_f1"]
