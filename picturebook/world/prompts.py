"""Prompts that ask GILL for an image: captions, stories with or without their images, dialogues."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .caption_grammar import caption, describe, shuffled
from .drawing import to_images
from .partial_scene import fully_known
from .phrases import IMAGE_REQUEST
from .scene import Scene, is_retrievable
from .splits import dialogue_in, scene_in, split_of_text, story_in
from .story_sampling import SceneStory

CAPTION, STORY, DIALOGUE = "caption", "story", "dialogue"


@dataclass(frozen=True)
class ImagePrompt:
    """A text prompt, and the scene that its image must show.

    Attributes:
        prompt: The text.
        kind: `caption`, `story` or `dialogue`.
        scene: The scene.
    """

    prompt: str
    kind: str
    scene: Scene


def sample_prompts(
    split: str, number: int, generator: np.random.Generator, retrievable: float = 0.5, fast: bool = False
) -> list[ImagePrompt]:
    """Prompts of a split that describe their scene completely; each kind in turn.

    Args:
        retrievable (`float`): Share of prompts whose scene is retrievable.
        fast (`bool`): Only captions, in any form, of `FAST_SCENES`.
    """
    samplers = (_fast_caption,) if fast else (_caption, _story, _dialogue)
    prompts = []
    for item in range(number):
        wanted = generator.random() < retrievable
        while True:
            prompt = samplers[item % len(samplers)](split, generator)
            if prompt is not None and is_retrievable(prompt.scene) == wanted:
                prompts.append(prompt)
                break
    return prompts


def story_prompt(story: SceneStory, images: np.ndarray | None = None, sentences: int | None = None) -> list[Any]:
    """A story up to its last sentence, and the request for its image.

    Args:
        images: uint8 `(5, 32, 32, 3)`; the first four follow their sentences.
        sentences (`int`, *optional*): Number of sentences, counted from the last one.
    """
    pieces: list[Any] = []
    numbered = list(enumerate(story.sentences))
    for number, sentence in numbered if sentences is None else numbered[-sentences:]:
        last = number == len(numbered) - 1
        pieces.append(f"{sentence} ." + (f" {IMAGE_REQUEST}" if last else ""))
        if images is not None and not last:
            pieces += to_images(images[number : number + 1])
    if images is None:
        return [" ".join(pieces)]
    return pieces


def _fast_caption(split: str, generator: np.random.Generator) -> ImagePrompt | None:
    scene = scene_in(split, generator, fast=1.0)
    prompt = caption(fully_known(scene), generator, plain_share=0.0)
    # The fast scenes are in all splits, but no prompt is in two.
    return ImagePrompt(prompt, CAPTION, scene) if split_of_text(prompt) == split else None


def _caption(split: str, generator: np.random.Generator) -> ImagePrompt:
    scene = scene_in(split, generator)
    return ImagePrompt(describe(shuffled(fully_known(scene), generator)), CAPTION, scene)


def _story(split: str, generator: np.random.Generator) -> ImagePrompt | None:
    story = story_in(split, generator)
    return ImagePrompt(story_prompt(story)[0], STORY, story.scenes[-1]) if story.complete else None


def _dialogue(split: str, generator: np.random.Generator) -> ImagePrompt | None:
    dialogue = dialogue_in(split, generator)
    return ImagePrompt(dialogue.text(), DIALOGUE, dialogue.scene) if dialogue.known[-1].complete else None
