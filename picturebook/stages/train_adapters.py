"""GILL's adapters between the frozen models, trained by `training_gill` on single pairs of an image and a caption.

As in the paper, no story and no dialogue is trained on: GILL's answers to them rely on the frozen language model.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_gill.atomic_write_gill import replace_folder
from pipeline_gill import GillPipeline
from training_gill import PrecomputeArguments, precompute, read_recipe, train
from training_gill.model_building import build_model
from training_gill.training_data import open_data

from ..models.gill_answers import generate_images, load_pipeline, share_with_image, write_captions
from ..models.image_generator import plain_captions
from ..world.pairs import PairMixture, draw_all, save_pairs
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import Settings
from .train_clip import STAGE as CLIP
from .train_generator import STAGE as GENERATOR
from .train_language_model import STAGE as LANGUAGE_MODEL
from .train_visual_projection import read_images_in_words, train_visual_projection

STAGE = "adapters"
# Pairs in a row that differ in one object: negatives that retrieval learns most from.
_GROUP_SIZE = 8
RECIPE = Path(__file__).with_name("adapters.yaml")
MAPPER_RECIPE = Path(__file__).with_name("mapper.yaml")


def train_adapters(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Write pairs, precompute targets and features, train the visual projection, the other adapters, and the mapper on
    by what the image generator makes of it; measure.

    `DIR/adapters` is a repository that refers to the folders of the frozen models.
    """
    trained = run.checkpoints(STAGE) / "trained"
    _train(trained, run, settings, seed)
    with replace_folder(run.folder(STAGE)) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    run.write_metrics(STAGE, measure_adapters(load_pipeline(trained), run, settings.measured, seed))


def _train(folder: Path, run: RunFolder, settings: Settings, seed: int) -> None:
    work = run.checkpoints(STAGE)
    initial = work / "initial"
    stages = {"language_model": LANGUAGE_MODEL, "vision_model": CLIP, "image_generator": GENERATOR}
    names = {name: str(run.folder(stage).resolve()) for name, stage in stages.items()}
    counts = {TRAIN: settings.pairs, VALIDATION: settings.measured}
    data = prepare_pairs(work, names, counts, settings.pair_mixture, seed)
    entries = {
        **names,
        **data,
        "validation_data": data["train_data"],
        "seed": seed,
    }
    first = {**entries, "output_dir": str(work / "first"), **settings.adapters}
    if not initial.exists():
        model, processor = build_model(read_recipe(RECIPE, **first).model, torch.float32, seed)
        images: Any = open_data(data["train_data"], TRAIN)
        shown = read_images_in_words(images, Path(data["cache"]), processor, seed)
        train_visual_projection(model, processor, shown, settings.visual_projection, work / "visual", seed)
        with replace_folder(initial) as new:
            model.save_pretrained(new)
            processor.save_pretrained(new)
    train(RECIPE, **first, start_from=str(initial))
    train(MAPPER_RECIPE, **entries, output_dir=str(folder), start_from=first["output_dir"], **settings.mapper)


def prepare_pairs(
    work: Path, names: Mapping[str, str], numbers: Mapping[str, int], mixture: PairMixture, seed: int
) -> dict[str, str]:
    """Write pairs with the generator's targets and the image encoder's features, as far as they are not there.

    Args:
        work (`Path`): Folder that `pairs` and `cache` are written to.
        names: Folders of `vision_model` and `image_generator`.
        numbers: Pairs of each split.

    Returns:
        `dict[str, str]`: `train_data` and `cache` of a recipe.
    """
    pairs, cache = work / "pairs", work / "cache"
    if not pairs.exists():
        with replace_folder(pairs) as new:
            save_pairs(new, numbers, seed, mixture, _GROUP_SIZE)
    for split in numbers:
        precompute(
            PrecomputeArguments(
                [str(pairs)],
                str(cache),
                split=split,
                image_generator=names["image_generator"],
                image_features=True,
                vision_model=names["vision_model"],
            )
        )
    return {"train_data": str(pairs), "cache": str(cache)}


def measure_adapters(pipe: GillPipeline, run: RunFolder, number: int, seed: int) -> dict[str, object]:
    """Of new scenes: right captions of their images, right images of their captions, and images asked for."""
    numbers = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, numbers, 0.0) for _ in range(number)]
    described = write_captions(pipe, draw_all(scenes, numbers))
    captions = plain_captions(scenes)
    images, _ = generate_images(pipe, captions, seed, force_image=True)
    run.write_sheet(STAGE, images[:40])
    return {
        "right_captions": float(np.mean([found == scene for found, scene in zip(described, scenes, strict=True)])),
        "asks_for_an_image": share_with_image(pipe, captions),
        "right_images_two_objects": correct_shares(images, scenes),
    }
