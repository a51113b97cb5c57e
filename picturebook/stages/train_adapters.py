"""GILL's adapters between the frozen models, trained by `training_gill` on single pairs of an image and a caption.

As in the paper, no story and no dialogue is trained on: GILL's answers to them rely on the frozen language model.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from modeling_gill import GillForConditionalGeneration, GillProcessor
from modeling_gill.atomic_write_gill import replace_folder
from pipeline_gill import GillPipeline
from training_gill import PrecomputeArguments, precompute, read_recipe, train
from training_gill.model_building import build_model

from ..models.gill_answers import generate_images, load_pipeline, share_with_image, write_captions
from ..models.image_generator import plain_captions
from ..world.documents import image_in_words
from ..world.drawing import to_images
from ..world.pairs import PairMixture, draw_all, sample_pairs, save_pairs
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import Settings
from .train_clip import STAGE as CLIP
from .train_generator import STAGE as GENERATOR
from .train_language_model import STAGE as LANGUAGE_MODEL

STAGE = "adapters"
# Pairs in a row that differ in one object: negatives that retrieval learns most from.
_GROUP_SIZE = 8
_PAIRS, _BATCH, _RIDGE = 6_000, 500, 1e-3
_RECIPE = Path(__file__).with_name("adapters.yaml")


def train_adapters(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Write pairs, precompute targets and features, fit the visual projection, train the other adapters, measure.

    `DIR/adapters` is a repository that refers to the folders of the frozen models.
    """
    trained = run.checkpoints(STAGE) / "trained"
    _train(trained, run, settings, seed)
    with replace_folder(run.folder(STAGE)) as folder:
        shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))
    run.write_metrics(STAGE, measure_adapters(load_pipeline(trained), run, settings.measured, seed))


def _train(folder: Path, run: RunFolder, settings: Settings, seed: int) -> None:
    work = run.checkpoints(STAGE)
    pairs, cache, initial = work / "pairs", work / "cache", work / "initial"
    stages = {"language_model": LANGUAGE_MODEL, "vision_model": CLIP, "image_generator": GENERATOR}
    names = {name: str(run.folder(stage).resolve()) for name, stage in stages.items()}
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


@torch.no_grad()
def fit_visual_projection(model: GillForConditionalGeneration, processor: GillProcessor, seed: int) -> None:
    """Fit the visual projection, so that visual tokens imitate images in words.

    Trained by the captioning loss alone, the norm of visual tokens grows to thirty times that of word embeddings.
    Captions after an image are good then, but the layers cannot treat such tokens as words, and a story that continues
    after an image is lost. So the projection is fitted in closed form, by least squares over single pairs of an image
    and its full caption, to the embeddings of the image in words.

    Args:
        model ([`GillForConditionalGeneration`]): With both backbones; it takes as many visual tokens an image as stand
            for one in the language model's text.
    """
    words = model.language_model.get_input_embeddings().weight
    features, targets = [], []
    for number in range(_PAIRS // _BATCH):
        mixture = PairMixture(single_share=0.2, plain_share=1.0, partial_share=0.0)
        pairs = sample_pairs(TRAIN, _BATCH, stream(seed, TRAIN, f"pairs to read {number}"), mixture)
        values = processor.image_processor(images=to_images(pairs.images), return_tensors="pt")["pixel_values"]
        features.append(model.get_image_features(values.to(model.device, model.dtype)).pooler_output.double())
        ids = processor.tokenizer([image_in_words(scene) for scene in pairs.scenes], return_tensors="pt").input_ids
        targets.append(words[ids.to(words.device)].flatten(1).double())
    inputs, outputs = torch.cat(features), torch.cat(targets)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    ridge = _RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    fitted = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    model.visual_projection.weight.copy_(fitted[:-1].T)
    model.visual_projection.bias.copy_(fitted[-1])


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
