"""PartiPrompts with people's votes on whether the retrieved or the generated image is the better match.

The files are the authors': tab-separated, no quoting, a header `Prompt Category Challenge Note Decisions`, five votes
`gen`, `ret` or `same` a line, separated by commas; or the column `Decision` with one label, votes already counted.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

VOTES = ("gen", "ret", "same")
# What a vote is called where the model decides.
DECISION_OF_VOTE = {"gen": "generate", "ret": "retrieve"}
# So many of the confident prompts, in the file's order, train the decision head (paper, section 4.2).
TRAIN_PROMPTS = 600


class AnnotationError(ValueError):
    """Annotations that cannot be used; the message says where, what was found and what was expected."""


@dataclass(frozen=True)
class Annotation:
    """A prompt, its `label` (one of [`VOTES`]), the votes where the file has them, and the category."""

    prompt: str
    label: str
    votes: tuple[str, ...] = ()
    category: str = field(default="", compare=False)


def read_annotations(path: str | os.PathLike[str]) -> list[Annotation]:
    """Read a file of votes or of labels, every line of it.

    Raises:
        AnnotationError: the file cannot be read, a column is missing, or a line has too few of them, no prompt, or an
            unknown vote; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"The annotations {str(path)!r} cannot be read: {error}") from error
    header = lines[0].split("\t") if lines else []
    votes_column = next((name for name in ("Decisions", "Decision") if name in header), None)
    if votes_column is None or "Prompt" not in header:
        raise AnnotationError(
            f"{path} has the columns {header}, expected 'Prompt' and 'Decisions' (votes) or 'Decision' (a label), "
            "separated by tabs."
        )
    annotations = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != len(header):
            raise AnnotationError(f"{path}, line {number}: {len(fields)} columns, expected {len(header)}.")
        row = dict(zip(header, fields, strict=True))
        votes = tuple(vote.strip() for vote in row[votes_column].split(","))
        unknown = sorted({*votes} - {*VOTES})
        if unknown or not row["Prompt"].strip():
            raise AnnotationError(
                f"{path}, line {number}: unknown votes {unknown} for the prompt {row['Prompt']!r}; expected a prompt "
                f"and votes of {VOTES}."
            )
        is_label = votes_column == "Decision"
        label, given = (votes[0], ()) if is_label else (agreed(votes), votes)
        annotations.append(Annotation(row["Prompt"], label, given, row.get("Category", "")))
    return annotations


def agreed(votes: Sequence[str]) -> str:
    """The label that votes agree on, `same` where they do not (paper, section 4.2).

    They agree where at least four of them are equal, or three with at most one against.
    """
    counts = Counter(votes)
    for label, other in (("gen", "ret"), ("ret", "gen")):
        if counts[label] >= 4 or (counts[label] == 3 and counts[other] <= 1):
            return label
    return "same"


def train_and_validation(
    annotations: Sequence[Annotation], train: int = TRAIN_PROMPTS
) -> tuple[list[Annotation], list[Annotation]]:
    """The confident ones, `same` left out: the first `train` of them, and the rest."""
    confident = [annotation for annotation in annotations if annotation.label != "same"]
    return confident[:train], confident[train:]


__all__ = [
    "DECISION_OF_VOTE",
    "TRAIN_PROMPTS",
    "VOTES",
    "Annotation",
    "AnnotationError",
    "agreed",
    "read_annotations",
    "train_and_validation",
]
