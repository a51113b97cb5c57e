"""Pairs of an image and a caption, sampled or as a dataset on disk; stories with their images."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .caption_grammar import caption, leave_out, shuffled
from .drawing import draw, png_bytes
from .partial_scene import fully_known
from .scene import Scene
from .splits import SINGLE_OBJECT_SHARE, TRAIN, scene_in, scenes_with_edits, stories, stream
from .story_sampling import LEAVE_OUT, SceneStory

# Probability that a caption which leaves something out leaves out an attribute.
_LEFT_OUT_OF_IT = 0.3


@dataclass(frozen=True)
class Pairs:
    """Images with captions.

    Attributes:
        images: uint8 `(pairs, 32, 32, 3)`.
        captions: One for each image; true, but not always complete.
        scenes: The scenes of the images.
    """

    images: np.ndarray
    captions: tuple[str, ...]
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class PairMixture:
    """Shares of the kinds of pairs, and how they are drawn.

    Attributes:
        single_share: Share of scenes with one object.
        plain_share: Share of captions in the plain form, the one of the language model's descriptions.
        partial_share: Share of captions that leave something out.
        fast: Share of scenes that are among `FAST_SCENES`; `single_share` is of the others.
        jitter: Whether objects are moved by up to one pixel, see [`draw`]. What the image generator learnt last, and
            so the images that a denoising loss should ask of it, are without.
    """

    single_share: float = SINGLE_OBJECT_SHARE
    plain_share: float = 0.5
    partial_share: float = 0.15
    fast: float = 0.0
    jitter: bool = True


def sample_pairs(
    split: str, number: int, generator: np.random.Generator, mixture: PairMixture = PairMixture()
) -> Pairs:
    """`number` pairs of a split."""
    scenes = tuple(scene_in(split, generator, mixture.single_share, mixture.fast) for _ in range(number))
    images = draw_all(scenes, generator if mixture.jitter else None)
    return Pairs(images, tuple(caption_for(scene, generator, mixture) for scene in scenes), scenes)


def caption_for(scene: Scene, generator: np.random.Generator, mixture: PairMixture) -> str:
    """A caption of a scene, its objects in any order."""
    known = shuffled(fully_known(scene), generator)
    if generator.random() < mixture.partial_share:
        known = leave_out(known, generator, _LEFT_OUT_OF_IT)
    return caption(known, generator, mixture.plain_share)


def save_pairs(
    folder: str | os.PathLike[str],
    numbers: Mapping[str, int],
    seed: int = 0,
    mixture: PairMixture = PairMixture(),
    group_size: int = 1,
) -> None:
    """Write a `datasets.DatasetDict` that `training_gill` trains on: columns `image` (PNG), `caption`, `scene` (a key).

    Args:
        numbers: Pairs of each split.
        group_size (`int`): Pairs in a row of the training split that are of one scene and its edits. Read in this
            order, they are hard negatives of each other.

    Raises:
        ImportError: `datasets` is not installed.
    """
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "caption": datasets.Value("string"), "scene": datasets.Value("string")}
    )
    saved = {}
    for split, number in numbers.items():
        generator = stream(seed, split, "saved pairs")
        if group_size > 1 and split == TRAIN:
            scenes = scenes_with_edits(
                split, number // group_size, group_size, generator, mixture.single_share, mixture.fast
            )
            captions = tuple(caption_for(scene, generator, mixture) for scene in scenes)
            pairs = Pairs(draw_all(scenes, generator if mixture.jitter else None), captions, tuple(scenes))
        else:
            pairs = sample_pairs(split, number, generator, mixture)
        rows = {
            # The name identifies an image in whatever order the images are read.
            "image": [
                {"bytes": png_bytes(image), "path": f"{split}-{at:06d}.png"} for at, image in enumerate(pairs.images)
            ],
            "caption": list(pairs.captions),
            "scene": [scene.key for scene in pairs.scenes],
        }
        saved[split] = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(saved).save_to_disk(Path(folder))


def draw_all(scenes: Sequence[Scene], generator: np.random.Generator | None) -> np.ndarray:
    """An image of each scene, uint8 `(scenes, 32, 32, 3)`; without a generator, all objects stand at their places."""
    return np.stack([draw(scene, generator) for scene in scenes])


def illustrated_stories(
    split: str, number: int, seed: int = 0, share: float = LEAVE_OUT
) -> list[tuple[SceneStory, np.ndarray]]:
    """Different stories of a split with their images, uint8 `(5, 32, 32, 3)`; the first do not depend on `number`.

    Args:
        share (`float`): See [`sample_story`].
    """
    generator = stream(seed, split, "pictures of stories")
    return [(story, draw_all(story.scenes, generator)) for story in stories(split, number, seed, share)]
