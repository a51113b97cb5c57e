"""Visual Dialog's files, version 1.0 (https://visualdialog.org/data): dialogues, and dense annotations of answers."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Round:
    """A question, its answer, and where the file has them the options to choose the answer from.

    `right` is the index of the right option, and `relevance`, for the one round of a dialogue that was annotated
    densely, how right people found each option, 0 to 1.
    """

    question: str
    answer: str
    options: tuple[str, ...] = ()
    right: int | None = None
    relevance: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dialogue:
    """A dialogue on the image with the COCO id `image`."""

    image: int
    rounds: tuple[Round, ...]

    def lines(self, rounds: int) -> list[str]:
        """`Q: ..?` and `A: ..` lines of the first rounds, as the authors write them."""
        return [line for one in self.rounds[:rounds] for line in (f"Q: {one.question}?", f"A: {one.answer}")]


def read_dialogues(path: str | os.PathLike[str], dense: str | os.PathLike[str] | None = None) -> list[Dialogue]:
    """Read every dialogue of a file, in the file's order.

    Args:
        dense (path, *optional*): The file of dense annotations. Its `round_id` counts from 1, as the challenge's own
            evaluation reads it.

    Raises:
        OSError: a file cannot be read.
        ValueError: one is something else, or they do not fit each other; names the dialogue.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
        questions, answers, dialogs = data["questions"], data["answers"], data["dialogs"]
        annotated = _read_dense(dense) if dense is not None else {}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not Visual Dialog's JSON, version 1.0: {error!r}.") from error
    found = []
    for number, dialog in enumerate(dialogs):
        try:
            image = int(dialog["image_id"])
            rounds = [
                Round(
                    questions[one["question"]],
                    answers[one["answer"]],
                    tuple(answers[option] for option in one.get("answer_options", ())),
                    one.get("gt_index"),
                )
                for one in dialog["dialog"]
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, dialogue {number} is not Visual Dialog's: {error!r}.") from error
        if image in annotated:
            place, relevance = annotated[image]
            if not 0 <= place < len(rounds) or len(relevance) != len(rounds[place].options):
                raise ValueError(
                    f"{dense}, image {image}: {len(relevance)} relevances for round {place + 1}, which has "
                    f"{len(rounds[place].options) if 0 <= place < len(rounds) else 'no'} options in {path}."
                )
            one = rounds[place]
            rounds[place] = Round(one.question, one.answer, one.options, one.right, relevance)
        found.append(Dialogue(image, tuple(rounds)))
    if not found:
        raise ValueError(f"{path} holds no dialogue.")
    return found


def _read_dense(path: str | os.PathLike[str]) -> dict[int, tuple[int, tuple[float, ...]]]:
    entries: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))
    return {
        # The training set's file calls it `relevance`.
        int(one["image_id"]): (
            int(one["round_id"]) - 1,
            tuple(map(float, one["gt_relevance" if "gt_relevance" in one else "relevance"])),
        )
        for one in entries
    }


__all__ = ["Dialogue", "Round", "read_dialogues"]
