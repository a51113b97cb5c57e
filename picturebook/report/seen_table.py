"""What GILL writes behind an image: its caption, and answers to the questions of a dialogue that begins with it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline_gill import GillPipeline

from ..models.gill_answers import write_texts
from ..models.language_model import description_in
from ..world.dialogue_sampling import SceneDialogue
from ..world.documents import image_in_words
from ..world.drawing import to_images
from ..world.pairs import draw_all
from ..world.scene import Scene
from ..world.splits import TEST, dialogues, scene_in, stream
from .results_table import Table, mean_of

IMAGE, WORDS = "the image", "reference: the image in words"
_CAPTION, _OPEN, _CLOSED, _DESCRIPTION = "caption", "open questions", "yes or no", "description after the dialogue"
_COLUMNS = (_CAPTION, _OPEN, _CLOSED, _DESCRIPTION)
_YES_OR_NO = ("yes", "no")
# From a scene and its image to what stands for it in a prompt.
Shown = Callable[[Scene, Image.Image], Any]


def seen_table(pipe: GillPipeline, items: int, seed: int, split: str = TEST) -> Table:
    """How often captions, answers and descriptions are entirely right, behind an image and behind the words for it."""
    generator = stream(seed, split, "captions to write")
    scenes = [scene_in(split, generator, 0.0) for _ in range(items)]
    asked = dialogues(split, items, seed)
    drawn = [to_images(draw_all(of, generator)) for of in (scenes, [dialogue.scene for dialogue in asked])]
    forms: dict[str, Shown] = {IMAGE: lambda scene, image: image, WORDS: lambda scene, image: image_in_words(scene)}
    rows = {}
    for name, form in forms.items():
        captions = [[form(scene, image)] for scene, image in zip(scenes, drawn[0], strict=True)]
        described = [description_in(text)[1] for text in write_texts(pipe, captions, 24)]
        shown = [form(dialogue.scene, image) for dialogue, image in zip(asked, drawn[1], strict=True)]
        rows[name] = {
            _CAPTION: mean_of(np.array([found == scene for found, scene in zip(described, scenes, strict=True)])),
            **{column: mean_of(values) for column, values in answers_right(pipe, asked, shown).items()},
        }
    questions = sum(len(dialogue.rounds) for dialogue in asked)
    return Table(
        "seen",
        "What is written behind an image, % right",
        _COLUMNS,
        rows,
        f"Captions of {items} scenes of two objects, and {items} dialogues with {questions} questions, all of the test "
        "split. Questions follow the image and the right answers to those before.",
    )


def answers_right(pipe: GillPipeline, asked: Sequence[SceneDialogue], shown: Sequence[Any]) -> dict[str, np.ndarray]:
    """Whether each question is answered right, by its sort, and whether each dialogue ends in a right description.

    Args:
        shown: What begins each dialogue in place of its caption: an image, or words for it.
    """
    prompts, answers, last = [], [], []
    for dialogue, first in zip(asked, shown, strict=True):
        text = ""
        for turn in dialogue.rounds:
            text = f"{text} Q: {turn.question} A:".strip()
            prompts.append([first, text])
            answers.append(turn.answer)
            text += f" {turn.answer} ."
        last.append([first, dialogue.text().removeprefix(f"{dialogue.opening} .").strip()])
    written = [text.strip(" .") for text in write_texts(pipe, prompts, 8)]
    right = np.array([text == answer for text, answer in zip(written, answers, strict=True)])
    closed = np.array([answer in _YES_OR_NO for answer in answers])
    described = [description_in(text)[1] for text in write_texts(pipe, last, 24)]
    return {
        _OPEN: right[~closed],
        _CLOSED: right[closed],
        _DESCRIPTION: np.array([found == dialogue.scene for found, dialogue in zip(described, asked, strict=True)]),
    }
