"""Visual Dialog's files, version 1.0 (https://visualdialog.org/data): dialogues, and dense annotations of answers."""

import os
from dataclasses import dataclass, replace
from typing import Any

from pipeline_gill.caption_files import read_json


@dataclass(frozen=True)
class Round:
    """A question and its answer.

    Attributes:
        question, answer (`str`): As in the file, the question without its question mark.
        options (`tuple[str, ...]`): Answers to choose from, where the file has them.
        right (`int`, *optional*): Index of the right option.
        relevance (`tuple[float, ...]`, *optional*):
            How right people found each option, from 0 to 1, for the one densely annotated round of a dialogue.
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
        return [line for item in self.rounds[:rounds] for line in (f"Q: {item.question}?", f"A: {item.answer}")]


def read_dialogues(path: str | os.PathLike[str], dense: str | os.PathLike[str] | None = None) -> list[Dialogue]:
    """Read all dialogues of a file, in the order of the file.

    Args:
        path: The file of dialogues.
        dense (*optional*): The file of dense annotations. Its `round_id` counts from 1, as in the challenge's own
            evaluation.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is something else, or they do not fit each other; names the dialogue.
    """
    content = read_json(path)
    try:
        data = content["data"]
        questions, answers, dialogs = data["questions"], data["answers"], list(data["dialogs"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is not Visual Dialog's JSON, version 1.0: {error!r}.") from error
    annotated = _read_dense(dense) if dense is not None else {}
    dialogues = []
    for number, dialog in enumerate(dialogs):
        try:
            image = int(dialog["image_id"])
            rounds = [_round(entry, questions, answers) for entry in dialog["dialog"]]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, dialogue {number} is not in the format of Visual Dialog: {error!r}.") from error
        if image in annotated:
            index, relevance = annotated[image]
            options = rounds[index].options if 0 <= index < len(rounds) else ()
            if len(relevance) != len(options):
                raise ValueError(
                    f"{dense}, image {image}: {len(relevance)} relevances for round {index + 1}, which has "
                    f"{len(options) or 'no'} options in {path}."
                )
            rounds[index] = replace(rounds[index], relevance=relevance)
        dialogues.append(Dialogue(image, tuple(rounds)))
    if not dialogues:
        raise ValueError(f"{path} holds no dialogue.")
    return dialogues


def _round(entry: dict[str, Any], questions: list[str], answers: list[str]) -> Round:
    options = tuple(str(answers[option]) for option in entry.get("answer_options", ()))
    return Round(str(questions[entry["question"]]), str(answers[entry["answer"]]), options, entry.get("gt_index"))


def _read_dense(path: str | os.PathLike[str]) -> dict[int, tuple[int, tuple[float, ...]]]:
    entries = read_json(path)
    try:
        return {
            # The training set's file calls it `relevance`.
            int(entry["image_id"]): (
                int(entry["round_id"]) - 1,
                tuple(map(float, entry["gt_relevance" if "gt_relevance" in entry else "relevance"])),
            )
            for entry in entries
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no dense annotations of Visual Dialog: {error!r}.") from error


__all__ = ["Dialogue", "Round", "read_dialogues"]
