"""GILL's adapters between the world's frozen models, trained by `training_gill` on pairs of an image and a caption.

No story and no dialogue is trained on here, as in the paper: what GILL makes of them comes from the language model.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from pipeline_gill import GillPipeline
from training_gill import precompute
from training_gill.fresh_model import build_model
from training_gill.recipe import read_recipe
from training_gill.train import train

from ..models.image_tensors import from_images, to_images
from ..world.pairs import draw_all, save_pairs
from ..world.reader import rates
from ..world.scene import Scene
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from . import train_clip as clip
from . import train_generator as generator
from . import train_language_model as language_model
from .run_folder import Place
from .settings import Settings
from .train_generator import GUIDANCE_SCALE, INFERENCE_STEPS, noise_seeds, plain_captions
from .train_language_model import scene_said
from .visual_projection import fit_visual_projection

STAGE = "adapters"
# Pairs in a row that differ in one thing: negatives that retrieval learns most from.
_ALIKE = 8
_RECIPE = Path(__file__).with_name("adapters.yaml")


def train_adapters(place: Place, settings: Settings, seed: int = 0) -> None:
    """Write pairs, compute what never changes, fit how images are read, train all else, measure.

    `DIR/adapters` is a repository that names the folders of the frozen models.
    """
    work = place.checkpoints(STAGE)
    trained = work / "trained"
    if not trained.exists():
        partial = work / "trained.partial"
        _train(partial, place, settings, seed)
        partial.rename(trained)

    def write(folder: Path) -> None:
        shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint-*"))

    place.write_folder(STAGE, write)
    place.write_figures(STAGE, measure_adapters(load_pipeline(trained), place, settings.measured, seed))
    shutil.rmtree(work, ignore_errors=True)


def _train(folder: Path, place: Place, settings: Settings, seed: int) -> None:
    work = place.checkpoints(STAGE)
    pairs, cache, reads = work / "pairs", work / "cache", work / "reads"
    names = {
        name: str(place.folder(stage).resolve())
        for name, stage in (
            ("language_model", language_model.STAGE),
            ("vision_model", clip.STAGE),
            ("image_generator", generator.STAGE),
        )
    }
    if not pairs.exists():
        partial = work / "pairs.partial"
        shutil.rmtree(partial, ignore_errors=True)
        numbers = {TRAIN: settings.pairs, VALIDATION: settings.measured}
        save_pairs(partial, numbers, seed, settings.pair_mixture, _ALIKE)
        partial.rename(pairs)
    for split in (TRAIN, VALIDATION):
        failed = precompute.main(
            [
                *("--dataset", str(pairs), "--split", split, "--out", str(cache), "--image-features"),
                *("--image-generator", names["image_generator"], "--vision-model", names["vision_model"]),
            ]
        )
        if failed:
            raise RuntimeError("What is computed once for the adapters could not be.")
    entries = {
        **names,
        "train_data": str(pairs),
        "validation_data": str(pairs),
        "cache": str(cache),
        "output_dir": str(folder),
        "seed": seed,
        **settings.adapters,
    }
    options = [word for name, value in entries.items() for word in (f"--{name}", str(value))]
    if not reads.exists():
        model, processor = build_model(read_recipe([str(_RECIPE), *options]).model, torch.float32, seed)
        fit_visual_projection(model, processor, seed)
        partial = work / "reads.partial"
        for part in (model, processor):
            part.save_pretrained(partial)
        partial.rename(reads)
    train(read_recipe([str(_RECIPE), *options, "--start_from", str(reads)]))


def load_pipeline(folder: Path) -> GillPipeline:
    """The pipeline in a folder, its progress bars off; on a GPU where there is one."""
    pipe = GillPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def measure_adapters(pipe: GillPipeline, place: Place, number: int, seed: int) -> dict[str, object]:
    """Of new scenes: right captions of their images, right images of their captions, and images asked for."""
    numbers = stream(seed, VALIDATION, STAGE)
    scenes = [scene_in(VALIDATION, numbers, 0.0) for _ in range(number)]
    said = write_captions(pipe, draw_all(scenes, numbers))
    figures: dict[str, object] = {
        "right_captions": float(np.mean([one == scene for one, scene in zip(said, scenes, strict=True)])),
    }
    captions = plain_captions(scenes)
    figures["asks_for_a_picture"] = share_with_image(pipe, captions)
    images = generate_images(pipe, captions, seed)
    figures["right_pictures_two_things"] = rates(images, scenes)
    place.write_sheet(STAGE, list(images[:40]), 8)
    return figures


def generate_images(pipe: GillPipeline, prompts: list, seed: int = 0, batch_size: int = 50) -> np.ndarray:
    """GILL's image right after each prompt, uint8 `(prompts, 32, 32, 3)`; each with a seed of its own."""
    drawn = []
    for begin in range(0, len(prompts), batch_size):
        some = prompts[begin : begin + batch_size]
        seeds = noise_seeds(seed, begin, len(some))
        out = pipe(
            some,
            decision="generate",
            force_image=True,
            generator=seeds,
            num_inference_steps=INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        drawn.append(from_images([answer[0].image for answer in out.image_pieces]))
    return np.concatenate(drawn)


def write_captions(pipe: GillPipeline, images: np.ndarray, batch_size: int = 50) -> list[Scene | None]:
    """The scene that GILL says each image shows; `None` where it says less, or no caption."""
    said = []
    for begin in range(0, len(images), batch_size):
        prompts = [[one] for one in to_images(images[begin : begin + batch_size])]
        batch = pipe.processor(prompts).to(pipe.device)
        written = pipe.model.generate(**batch, max_new_tokens=24)
        for ids in written[:, batch["input_ids"].shape[1] :].tolist():
            text = pipe.processor.split_answer(ids)
            said.append(scene_said(text[0].partition(".")[0].strip() if text and isinstance(text[0], str) else ""))
    return said


def share_with_image(pipe: GillPipeline, prompts: list[str], batch_size: int = 50) -> float:
    """How often the model asks for an image of its own accord right after a full caption."""
    asked = []
    for begin in range(0, len(prompts), batch_size):
        batch = pipe.processor(prompts[begin : begin + batch_size]).to(pipe.device)
        with torch.no_grad():
            best = pipe.model(**batch, logits_to_keep=1).logits[:, -1].argmax(-1)
        asked += (best == pipe.model.config.image_output_token_ids[0]).tolist()
    return float(np.mean(asked))
