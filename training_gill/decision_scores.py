"""Words of the annotation files, in the order of the decision head's outputs."""

from evaluation_gill.decisions import DECISIONS as _LABELS
from evaluation_gill.decisions import VOTE_OF_LABEL, macro_f1

DECISIONS = tuple(VOTE_OF_LABEL[label] for label in _LABELS)

__all__ = ["DECISIONS", "macro_f1"]
