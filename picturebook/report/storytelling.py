"""Stories told and questions answered by GILL, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline_gill import GillImage, GillPipeline

from ..world.dialogue_sampling import SceneDialogue
from ..world.drawing import from_images, to_images
from ..world.phrases import IMAGE_REQUEST
from ..world.reader import correctness, read
from ..world.scene import Scene
from ..world.story_sampling import SceneStory


@dataclass(frozen=True)
class StoryPanel:
    """A sentence of a story with the image that GILL answered.

    Attributes:
        sentence: What was told.
        written: What GILL wrote before its image.
        image: `None` where it asked for none.
        is_right: Whether the image shows what is so after the sentence, all of it.
    """

    sentence: str
    written: str
    image: GillImage | None
    is_right: bool


@dataclass(frozen=True)
class AnsweredDialogue:
    """A dialogue with GILL's last answer.

    Attributes:
        lines: Who said what, in turns; a PIL image or a string each.
        written, image, is_right: As of a panel.
    """

    lines: Sequence[Any]
    written: str
    image: GillImage | None
    is_right: bool


def illustrate_stories(pipe: GillPipeline, stories: Sequence[SceneStory], seed: int) -> list[list[StoryPanel]]:
    """Tell every story sentence by sentence. Each image is GILL's own, and the next is asked for with it in mind."""
    prompts: list[list[Any]] = [[] for _ in stories]
    told: list[list[StoryPanel]] = [[] for _ in stories]
    for number in range(len(stories[0].sentences)):
        asked = [
            [*prompt, f"{story.sentences[number]} . {IMAGE_REQUEST}"]
            for prompt, story in zip(prompts, stories, strict=True)
        ]
        answers = _answer(pipe, asked, [story.scenes[number] for story in stories], seed + number)
        for place, (story, (written, image, is_right)) in enumerate(zip(stories, answers, strict=True)):
            told[place].append(StoryPanel(f"{story.sentences[number]} .", written, image, is_right))
            prompts[place].append(f"{story.sentences[number]} .")
            if image is not None:
                prompts[place].append(image.image)
    return told


def answer_dialogues(
    pipe: GillPipeline, dialogues: Sequence[SceneDialogue], images: np.ndarray, seed: int
) -> list[AnsweredDialogue]:
    """Let GILL answer dialogues, whose last turn asks to see what was talked about.

    Every second one begins with its image in place of the words that open it; GILL answers its questions too, in
    words. In the others it is told the answers, as it cannot know them.
    """
    lines: list[list[Any]] = []
    for number, (dialogue, image) in enumerate(zip(dialogues, to_images(images), strict=True)):
        said: list[Any] = [image if number % 2 else f"{dialogue.opening} ."]
        for one in dialogue.rounds:
            said.append(f"Q: {one.question}")
            answer = _say(pipe, [*said, "A:"]) if number % 2 else f"{one.answer} ."
            said.append(f"A: {answer}")
        lines.append([*said, "Q: can we see it ?", f"A: {IMAGE_REQUEST}"])
    answers = _answer(pipe, [_prompt(said) for said in lines], [dialogue.scene for dialogue in dialogues], seed)
    return [AnsweredDialogue(said, *answer) for said, answer in zip(lines, answers, strict=True)]


def _prompt(lines: Sequence[Any]) -> list[Any]:
    texts = " ".join(line for line in lines if isinstance(line, str))
    return [*(line for line in lines if not isinstance(line, str)), texts]


def _say(pipe: GillPipeline, lines: Sequence[Any]) -> str:
    """What GILL says next, one sentence of words."""
    batch = pipe.processor([_prompt(lines)]).to(pipe.device)
    written = pipe.model.generate(**batch, max_new_tokens=8)[0, batch["input_ids"].shape[1] :].tolist()
    said = pipe.processor.split_answer(written)
    return said[0].strip() if said and isinstance(said[0], str) else ""


def _answer(
    pipe: GillPipeline, prompts: list[list[Any]], scenes: Sequence[Scene], seed: int
) -> list[tuple[str, GillImage | None, bool]]:
    out = pipe(prompts, generator=[torch.Generator().manual_seed(seed * 1_000 + at) for at in range(len(prompts))])
    answers = []
    for text, images, scene in zip(out.texts, out.image_pieces, scenes, strict=True):
        image = images[0] if images else None
        is_right = image is not None and bool(correctness(read(from_images([image.image])), [scene])["scene"][0])
        answers.append((text.strip(), image, is_right))
    return answers
