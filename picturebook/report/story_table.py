"""Table 1: the last image of a story, drawn from more or less of it (the paper's Table 1, in miniature)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch.nn import functional

from pipeline_gill import GillPipeline

from ..models.image_generator import generate_from_captions, noise_seeds, plain_captions
from ..world.drawing import from_images, to_images
from ..world.pairs import draw_all, illustrated_stories
from ..world.prompts import story_prompt
from ..world.reader import ATTRIBUTES, correctness, read
from ..world.scene import Scene
from ..world.splits import TEST, scene_in, stream
from ..world.story_sampling import SceneStory
from .results_table import Table, mean_of

PLAIN_LAST = "plain generator, last caption"
PLAIN_FIVE = "plain generator, five captions"
GILL_LAST = "GILL, last caption"
GILL_FIVE = "GILL, five captions"
GILL_IMAGES = "GILL, five captions and four pictures"
DESCRIPTION = "reference: the language model's description of five captions, drawn by the plain generator"
PLAIN_CAPTION, GILL_CAPTION = "plain generator", "GILL"
_COLUMNS = ("scene", *ATTRIBUTES, "CLIP similarity")


@dataclass(frozen=True)
class Drawn:
    """What systems drew for the same items.

    Attributes:
        truth: What is right, uint8 `(items, 32, 32, 3)`, and its scenes.
        by_system: uint8 `(items, 32, 32, 3)` each.
    """

    truth: np.ndarray
    scenes: Sequence[Scene]
    by_system: dict[str, np.ndarray]


@dataclass(frozen=True)
class DrawnStories:
    """The stories of Table 1 with their images, and what was drawn.

    Attributes:
        texts: What GILL wrote before its image, by system.
    """

    stories: Sequence[tuple[SceneStory, np.ndarray]]
    drawn: Drawn
    texts: dict[str, list[str]]


def plain_generator(pipe: GillPipeline) -> StableDiffusionPipeline:
    """The image generator alone, as it is between GILL's parts."""
    return StableDiffusionPipeline(
        vae=pipe.vae,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=pipe.unet,
        scheduler=pipe.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def draw_stories(pipe: GillPipeline, items: int, seed: int, split: str = TEST) -> DrawnStories:
    """Let every system draw the last image of so many stories; the same noise for each."""
    stories = illustrated_stories(split, items, seed)
    alone = plain_generator(pipe)
    prompts = {
        GILL_LAST: [story_prompt(story, sentences=1) for story, _ in stories],
        GILL_FIVE: [story_prompt(story) for story, _ in stories],
        GILL_IMAGES: [story_prompt(story, images) for story, images in stories],
    }
    answers = {name: answer(pipe, some, seed) for name, some in prompts.items()}
    by_system = {
        PLAIN_LAST: generate_from_captions(alone, [f"{story.sentences[-1]} ." for story, _ in stories], seed),
        PLAIN_FIVE: generate_from_captions(alone, [story.text for story, _ in stories], seed),
        **{name: images for name, (images, _) in answers.items()},
        DESCRIPTION: generate_from_captions(alone, answers[GILL_FIVE][1], seed),
    }
    truth = np.stack([images[-1] for _, images in stories])
    drawn = Drawn(truth, [story.scenes[-1] for story, _ in stories], by_system)
    return DrawnStories(stories, drawn, {name: texts for name, (_, texts) in answers.items()})


def draw_captions(pipe: GillPipeline, items: int, seed: int, split: str = TEST) -> Drawn:
    """Let both draw full captions of two objects."""
    numbers = stream(seed, split, "captions to draw")
    scenes = [scene_in(split, numbers, 0.0) for _ in range(items)]
    captions = plain_captions(scenes)
    by_system = {
        PLAIN_CAPTION: generate_from_captions(plain_generator(pipe), captions, seed),
        GILL_CAPTION: answer(pipe, captions, seed)[0],
    }
    return Drawn(draw_all(scenes, numbers), scenes, by_system)


def answer(pipe: GillPipeline, prompts: Sequence, seed: int, batch_size: int = 50) -> tuple[np.ndarray, list[str]]:
    """What GILL draws and the text before it; where it asks for no image, a black one stands, which is wrong."""
    images, texts = [], []
    for begin in range(0, len(prompts), batch_size):
        some = list(prompts[begin : begin + batch_size])
        seeds = noise_seeds(seed, begin, len(some))
        out = pipe(some, decision="generate", generator=seeds)
        texts += [text.strip() for text in out.texts]
        images += [found[0].image if found else None for found in out.image_pieces]
    size = pipe.vae.config.sample_size
    black = np.zeros((size, size, 3), dtype=np.uint8)
    return np.stack([black if one is None else from_images([one])[0] for one in images]), texts


def story_table(pipe: GillPipeline, drawn: DrawnStories) -> Table:
    """Table 1."""
    complete = np.array([story.complete for story, _ in drawn.stories])
    items = len(drawn.stories)
    return Table(
        "stories",
        "The last picture of a story, % right",
        _COLUMNS,
        _rows(pipe, drawn.drawn),
        f"{items} stories of the test split; of {100 * complete.mean():.0f} % the five captions tell all of the last "
        "picture, of the others the pictures before it are needed. 95 % bootstrap intervals. CLIP similarity: cosine "
        "(x 100) with the true picture, by the picture tower's pooled output.",
    )


def caption_table(pipe: GillPipeline, drawn: Drawn) -> Table:
    """What both make of one full caption."""
    return Table(
        "captions",
        "One full caption of two things, % right",
        _COLUMNS,
        _rows(pipe, drawn),
        f"{len(drawn.scenes)} scenes of the test split, whose two things were never together in training.",
    )


def _rows(pipe: GillPipeline, drawn: Drawn) -> dict:
    truth = image_features(pipe, drawn.truth)
    rows = {}
    for name, images in drawn.by_system.items():
        found = correctness(read(images), drawn.scenes)
        rows[name] = {column: mean_of(found[column]) for column in _COLUMNS[:-1]}
        similarity = (image_features(pipe, images) * truth).sum(-1)
        rows[name][_COLUMNS[-1]] = mean_of(similarity.numpy())
    return rows


@torch.no_grad()
def image_features(pipe: GillPipeline, images: np.ndarray, batch_size: int = 250) -> torch.Tensor:
    """Unit vectors `(n, width)` of uint8 images, by the image tower of the world's CLIP."""
    features = []
    for begin in range(0, len(images), batch_size):
        some = to_images(images[begin : begin + batch_size])
        values = pipe.processor.image_processor(images=some, return_tensors="pt")["pixel_values"]
        pooled = pipe.model.vision_model(values.to(pipe.model.device, pipe.model.dtype)).pooler_output
        features.append(functional.normalize(pooled.float().cpu(), dim=-1))
    return torch.cat(features)
