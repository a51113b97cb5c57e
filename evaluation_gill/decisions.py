"""Whether to retrieve or to generate: annotations of prompts, the split that trains the head, and macro F1.

The annotation files are the authors': tab-separated, no quoting, a header `Prompt Category Challenge Note Decisions`,
five votes `gen`, `ret` or `same` a line, separated by commas; or the column `Decision` with one label. The words of the
files are translated to [`LABELS`] here and nowhere else.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import cached_file, has_file

from pipeline_gill.caption_files import CaptionFileError, read_json, read_table

# In the order of the outputs of the decision head.
DECISIONS = ("generate", "retrieve")
LABELS = (*DECISIONS, "tie")
VOTE_OF_LABEL = {"generate": "gen", "retrieve": "ret", "tie": "same"}
_LABEL_OF_VOTE = {vote: label for label, vote in VOTE_OF_LABEL.items()}
# The paper trains the head on this many of the prompts that annotators agree on (section 4.2).
TRAIN_PROMPTS = 600
# In a model's repository: what was measured when its head was trained, and on which prompts.
DECISION_FILE = "results/decision.json"


class AnnotationError(ValueError):
    """Annotations that cannot be used; the message says where, what was found and what was expected."""


@dataclass(frozen=True)
class Annotation:
    """A prompt, its `label` (one of [`LABELS`]), the single votes where the file has them, and the category."""

    prompt: str
    label: str
    votes: tuple[str, ...] = ()
    category: str = field(default="", compare=False)


def read_annotations(path: str | os.PathLike[str]) -> list[Annotation]:
    """Read a file of votes or of labels.

    Raises:
        AnnotationError: the file cannot be read, a column is missing, or a row has too few or too many fields, no
            prompt, or an unknown vote; names the line.
    """
    try:
        header, rows = read_table(path)
        annotations = [_annotation(row.fields, row.line, header, path) for row in rows]
    except (OSError, CaptionFileError) as error:
        raise AnnotationError(f"The annotations {str(path)!r} cannot be read: {error}") from error
    if not annotations:
        raise AnnotationError(f"{path} holds no annotations, only a header.")
    return annotations


def _annotation(fields: list[str], line: int, header: list[str], path: str | os.PathLike[str]) -> Annotation:
    votes_column = next((name for name in ("Decisions", "Decision") if name in header), None)
    if votes_column is None or "Prompt" not in header:
        raise AnnotationError(
            f"{path} has the columns {header}, expected 'Prompt' and 'Decisions' (votes) or 'Decision' (a label), "
            "separated by tabs."
        )
    row = dict(zip(header, fields, strict=True))
    votes = [vote.strip() for vote in row[votes_column].split(",")]
    unknown = sorted({*votes} - {*_LABEL_OF_VOTE})
    if unknown or not row["Prompt"].strip():
        raise AnnotationError(
            f"{path}, line {line}: unknown votes {unknown} for the prompt {row['Prompt']!r}; expected a prompt and "
            f"votes of {tuple(_LABEL_OF_VOTE)}."
        )
    labels = tuple(_LABEL_OF_VOTE[vote] for vote in votes)
    if votes_column == "Decision":
        return Annotation(row["Prompt"], labels[0], category=row.get("Category", ""))
    return Annotation(row["Prompt"], majority_label(labels), labels, row.get("Category", ""))


def majority_label(votes: Sequence[str]) -> str:
    """The label that votes agree on, `"tie"` where they do not (paper, section 4.2).

    They agree where at least four of them are equal, or three with at most one against.

    Example:

        >>> from evaluation_gill.decisions import majority_label
        >>> majority_label(["generate", "generate", "generate", "retrieve", "tie"])
        'generate'
    """
    counts = Counter(votes)
    for label, other in (DECISIONS, DECISIONS[::-1]):
        if counts[label] >= 4 or (counts[label] == 3 and counts[other] <= 1):
            return label
    return "tie"


def without_ties(annotations: Iterable[Annotation]) -> list[Annotation]:
    """The annotations on which people agree."""
    return [annotation for annotation in annotations if annotation.label != "tie"]


def split_annotations(
    annotations: Sequence[Annotation], train_prompts: int = TRAIN_PROMPTS, seed: int | None = None
) -> tuple[list[Annotation], list[Annotation]]:
    """Divide annotations without ties into those that train the head and those that validate it.

    Args:
        annotations (`Sequence[Annotation]`): Ties are left out.
        train_prompts (`int`): Number of prompts that train.
        seed (`int`, *optional*): Draw them at random; by default the first ones train, as in the paper.

    Raises:
        AnnotationError: no prompt would be left for one of the two.
    """
    agreed = without_ties(annotations)
    if not 0 < train_prompts < len(agreed):
        raise AnnotationError(
            f"{len(agreed)} prompts have a decision that annotators agree on; {train_prompts} of them cannot train and "
            "leave some to validate. Choose another number of training prompts."
        )
    order = range(len(agreed)) if seed is None else np.random.default_rng(seed).permutation(len(agreed))
    ordered = [agreed[number] for number in order]
    return ordered[:train_prompts], ordered[train_prompts:]


def split_record(
    annotations_file: str | os.PathLike[str], train: Sequence[Annotation], seed: int | None = None
) -> dict[str, Any]:
    """What [`DECISION_FILE`] says of the split, so that nobody measures a head on the prompts that trained it.

    Returns:
        `dict`: `annotations` (name of the file), `train_prompts` (`int`), `split` (words), and `trained_on`, the
        fingerprints of the training prompts, by which they are recognised in any file.
    """
    return {
        "annotations": Path(annotations_file).name,
        "train_prompts": len(train),
        "split": "first prompts train" if seed is None else f"seed {seed}",
        "trained_on": sorted({_fingerprint(annotation.prompt) for annotation in train}),
    }


def read_split_record(model: str, revision: str | None = None) -> dict[str, Any] | None:
    """The record of a repository on the Hub or in a folder, or `None` where it has none.

    Raises:
        ValueError: the record is damaged. OSError: the repository cannot be reached.
    """
    if not has_file(model, DECISION_FILE, revision=revision):
        return None
    path = cached_file(model, DECISION_FILE, revision=revision)
    record = read_json(str(path))
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds no JSON object; expected the record of a decision head's training.")
    return record


def held_out_annotations(
    annotations: Sequence[Annotation],
    annotations_file: str | os.PathLike[str],
    record: Mapping[str, Any] | None,
    train_prompts: int | None = None,
) -> tuple[list[Annotation], list[Annotation]]:
    """Divide annotations without ties into those that trained a head and those that it can be measured on.

    Args:
        record (`Mapping`, *optional*): The head's own, from [`read_split_record`]. Without one the paper's split holds.
        train_prompts (`int`, *optional*): Take this many prompts at the beginning for those that trained.

    Raises:
        ValueError: the record does not say which prompts trained, or `train_prompts` contradicts it.
    """
    agreed = without_ties(annotations)
    if record is None:
        count = TRAIN_PROMPTS if train_prompts is None else train_prompts
        return agreed[:count], agreed[count:]
    trained = _trained_on(record, agreed, annotations_file)
    train = [item for item in agreed if _fingerprint(item.prompt) in trained]
    rest = [item for item in agreed if _fingerprint(item.prompt) not in trained]
    if train_prompts is not None:
        leaked = [item for item in agreed[train_prompts:] if _fingerprint(item.prompt) in trained]
        if leaked:
            raise ValueError(
                f"{len(leaked)} of the {len(agreed) - train_prompts} prompts behind the first {train_prompts} trained "
                f"the decision head, {leaked[0].prompt!r} for one; {DECISION_FILE} of the model names them. Leave the "
                "number of training prompts out, and the model's own record is used."
            )
        return agreed[:train_prompts], agreed[train_prompts:]
    return train, rest


def _trained_on(
    record: Mapping[str, Any], agreed: Sequence[Annotation], annotations_file: str | os.PathLike[str]
) -> set[str]:
    listed = record.get("trained_on")
    if isinstance(listed, list):
        return {str(item) for item in listed}
    # Records of earlier versions name the rule alone: enough for the same file, and for a file of other prompts.
    before, now = str(record.get("annotations", "")), Path(annotations_file).name
    if before == now and record.get("prompts_agreed_on") == len(agreed):
        rule = str(record.get("split", ""))
        seed = int(rule.removeprefix("seed ")) if rule.startswith("seed ") else None
        train, _ = split_annotations(agreed, int(record["train_prompts"]), seed)
        return {_fingerprint(item.prompt) for item in train}
    if before != now and not (before.startswith("PartiPrompts") and now.startswith("PartiPrompts")):
        return set()
    raise ValueError(
        f"{DECISION_FILE} of the model does not say which prompts of {before!r} trained its decision head, and {now!r} "
        "may hold them. Train the head again, or measure on all prompts with the part `all`."
    )


def _fingerprint(prompt: str) -> str:
    plain = " ".join(unicodedata.normalize("NFC", prompt).split()).casefold()
    return hashlib.sha256(plain.encode("utf-8")).hexdigest()[:16]


def f1_scores(predicted: np.ndarray, true: np.ndarray) -> list[float]:
    """F1 of each of [`DECISIONS`], 0 where a class never comes up.

    Args:
        predicted, true (`np.ndarray` of shape `(num_prompts,)`): Indices into [`DECISIONS`].
    """
    scores = []
    for label in range(len(DECISIONS)):
        count = int((predicted == label).sum() + (true == label).sum())
        scores.append(2 * int(((predicted == label) & (true == label)).sum()) / count if count else 0.0)
    return scores


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean of [`f1_scores`].

    Example:

        >>> import numpy as np
        >>> from evaluation_gill.decisions import macro_f1
        >>> macro_f1(np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]))
        1.0
    """
    return float(np.mean(f1_scores(predicted, true)))


def human_agreement(annotations: Iterable[Annotation]) -> float | None:
    """Macro F1 of single annotators' votes, pooled, against what all agreed on; `None` where there are no votes.

    Votes for a tie take no side and are left out. Over the prompts of the paper this is its 0.851.
    """
    pairs = [
        (DECISIONS.index(vote), DECISIONS.index(annotation.label))
        for annotation in without_ties(annotations)
        for vote in annotation.votes
        if vote in DECISIONS
    ]
    if not pairs:
        return None
    votes, labels = np.array(pairs).T
    return macro_f1(votes, labels)


__all__ = [
    "DECISIONS",
    "DECISION_FILE",
    "LABELS",
    "TRAIN_PROMPTS",
    "VOTE_OF_LABEL",
    "Annotation",
    "AnnotationError",
    "f1_scores",
    "held_out_annotations",
    "human_agreement",
    "macro_f1",
    "majority_label",
    "read_annotations",
    "read_split_record",
    "split_annotations",
    "split_record",
    "without_ties",
]
