"""GILL's adapters between the frozen models, trained by `training_gill` on single pairs of an image and a caption.

As in the paper, no story and no dialogue is trained on: GILL's answers to them rely on the frozen language model.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from modeling_gill.atomic_write_gill import replace_folder
from pipeline_gill import GillPipeline
from training_gill import PrecomputeArguments, precompute, read_recipe, train
from training_gill.model_building import build_model

from ..models.gill_answers import generate_images, load_pipeline, share_with_image, write_captions
from ..models.image_generator import plain_captions
from ..world.pairs import draw_all, save_pairs
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import Settings
from .train_clip import STAGE as CLIP
from .train_generator import STAGE as GENERATOR
from .train_language_model import STAGE as LANGUAGE_MODEL
from .visual_projection import fit_visual_projection

STAGE = "adapters"
# Pairs in a row that differ in one object: negatives that retrieval learns most from.
_GROUP_SIZE = 8
_RECIPE = Path(__file__).with_name("adapters.yaml")


def train_adapters(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Write pairs, precompute targets and features, fit the visual projection, train the other adapters, measure.

    `DIR/adapters` is a repository that refers to the folders of the frozen models.
    """
    work = run.checkpoints(STAGE)
    trained = work / "trained"
    _train(trained, run, settings, seed)
    with replace_folder(run.folder(STAGE)) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    run.write_metrics(STAGE, measure_adapters(load_pipeline(trained), run, settings.measured, seed))
    shutil.rmtree(work, ignore_errors=True)


def _train(folder: Path, run: RunFolder, settings: Settings, seed: int) -> None:
    work = run.checkpoints(STAGE)
    pairs, cache, initial = work / "pairs", work / "cache", work / "initial"
    names = {
        name: str(run.folder(stage).resolve())
        for name, stage in (
            ("language_model", LANGUAGE_MODEL),
            ("vision_model", CLIP),
            ("image_generator", GENERATOR),
        )
    }
    if not pairs.exists():
        counts = {TRAIN: settings.pairs, VALIDATION: settings.measured}
        with replace_folder(pairs) as new:
            save_pairs(new, counts, seed, settings.pair_mixture, _GROUP_SIZE)
    for split in (TRAIN, VALIDATION):
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
    entries = {
        **names,
        "train_data": str(pairs),
        "validation_data": str(pairs),
        "cache": str(cache),
        "output_dir": str(folder),
        "seed": seed,
        **settings.adapters,
    }
    if not initial.exists():
        model, processor = build_model(read_recipe(_RECIPE, **entries).model, torch.float32, seed)
        fit_visual_projection(model, processor, seed)
        with replace_folder(initial) as new:
            model.save_pretrained(new)
            processor.save_pretrained(new)
    train(_RECIPE, **entries, start_from=str(initial))


def measure_adapters(pipe: GillPipeline, run: RunFolder, number: int, seed: int) -> dict[str, object]:
    """Of new scenes: right captions of their images, right images of their captions, and images asked for."""
    numbers = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, numbers, 0.0) for _ in range(number)]
    said = write_captions(pipe, draw_all(scenes, numbers))
    metrics: dict[str, object] = {
        "right_captions": float(np.mean([one == scene for one, scene in zip(said, scenes, strict=True)])),
    }
    captions = plain_captions(scenes)
    metrics["asks_for_a_picture"] = share_with_image(pipe, captions)
    images = generate_images(pipe, captions, seed)
    metrics["right_pictures_two_things"] = correct_shares(images, scenes)
    run.write_sheet(STAGE, list(images[:40]), 8)
    return metrics
