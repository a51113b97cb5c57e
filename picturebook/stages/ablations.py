"""Short trainings that differ in one thing each: the paper's ablations, and options that are off by default.

All of them are new adapters for the frozen models of a picture book, over the same pairs, targets and features.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch.nn import functional

from modeling_gill import GillForConditionalGeneration
from modeling_gill.atomic_write_gill import replace_file, replace_folder
from pipeline_gill import GillPipeline
from training_gill import read_recipe, train
from training_gill.model_building import build_model

from ..models.clip import pooled_image_features, pooled_text_features
from ..models.gill_answers import load_pipeline
from ..models.word_tokenizer import language_model_tokenizer
from ..world.pairs import caption_for, draw_all
from ..world.splits import TRAIN, scenes_with_edits, stream
from .settings import FULL
from .train_adapters import RECIPE, prepare_pairs
from .train_clip import MIXTURE, story_so_far

ABLATIONS = Path(__file__).with_name("ablations.yaml")
# Of the projections of CLIP: scenes with their edits in a batch, as in its last phase, and texts that are stories.
_BATCH, _EDITS, _STORIES, _BATCHES, _PASSES = 128, 16, 0.1, 60, 12


@dataclass(frozen=True)
class AblationRun:
    """Layout of a folder of ablations.

    Args:
        root (`Path`): The folder.
    """

    root: Path

    @property
    def frozen(self) -> Path:
        """The frozen models, each in a folder of its own."""
        return self.root / "frozen"

    @property
    def clip_projections(self) -> Path:
        """The projections of CLIP's towers, which a checkpoint has no use for."""
        return self.root / "clip_projections.safetensors"

    def trained(self, name: str) -> Path:
        """The repository of a training."""
        return self.root / "trained" / name

    def load(self, name: str) -> GillPipeline:
        """
        The pipeline of a training.

        Raises:
            FileNotFoundError: it is not finished.
        """
        if not (self.trained(name) / "model_index.json").is_file():
            raise FileNotFoundError(
                f"{self.trained(name)} is not trained; run: gill picturebook ablations --out {self.root}"
            )
        return load_pipeline(self.trained(name))


@dataclass(frozen=True)
class AblationGroup:
    """Trainings that are compared with each other.

    Attributes:
        pairs: Number of pairs that all of them read.
        single_share: Share of scenes with one object.
        trainings: For each the entries that differ from `adapters.yaml`.
    """

    pairs: int
    single_share: float
    trainings: Mapping[str, Mapping[str, Any]]


def read_ablations() -> dict[str, AblationGroup]:
    """The groups of `ablations.yaml`, by name."""
    return {
        name: AblationGroup(
            group["pairs"],
            group["single_share"],
            {training: {**group["shared"], **entries} for training, entries in group["trainings"].items()},
        )
        for name, group in yaml.safe_load(ABLATIONS.read_text(encoding="utf-8")).items()
    }


def train_ablations(
    run: AblationRun,
    pipe: GillPipeline,
    groups: Mapping[str, AblationGroup],
    seed: int = 0,
    clip_batches: int = _BATCHES,
) -> None:
    """Train what is not trained yet, in the order of `groups`; one that was stopped goes on from its checkpoint.

    Args:
        pipe ([`GillPipeline`]): The picture book whose frozen models and visual projection are taken.
        clip_batches (`int`): Batches that CLIP's projections are fitted on.

    Raises:
        ValueError: the folder is of other frozen models.
    """
    names = split_repository(pipe, run)
    if not run.clip_projections.exists():
        fit_clip_projections(pipe, run.clip_projections, seed, clip_batches)
    for group_name, group in groups.items():
        mixture = replace(FULL.pair_mixture, single_share=group.single_share)
        data = prepare_pairs(run.root / group_name, names, {TRAIN: group.pairs}, mixture, seed)
        read = {name: getattr(pipe.model.config, name) for name in ("num_visual_tokens", "visual_projection_depth")}
        every = {**names, **data, **read, "seed": seed}
        for name, entries in group.trainings.items():
            if (run.trained(name) / "model_index.json").is_file():
                print(f"{name}: trained before", flush=True)
                continue
            start = time.monotonic()
            _train(run, name, pipe.model, {**every, "output_dir": str(run.trained(name)), **entries})
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} min", flush=True)


def _train(run: AblationRun, name: str, frozen: GillForConditionalGeneration, entries: Mapping[str, Any]) -> None:
    initial = run.root / "initial" / name
    recipe = read_recipe(RECIPE, **entries)
    model, processor = build_model(recipe.model, torch.float32, recipe.training.seed, recipe.data.cache)
    model.visual_projection.load_state_dict(frozen.visual_projection.state_dict())
    with replace_folder(initial) as new:
        model.save_pretrained(new)
        processor.save_pretrained(new)
    train(RECIPE, **entries, start_from=str(initial))
    for checkpoint in run.trained(name).glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def split_repository(pipe: GillPipeline, run: AblationRun) -> dict[str, str]:
    """Write the frozen models of a self-contained pipeline to folders of their own, if they are not there.

    Returns:
        `dict[str, str]`: Their folders, by the names of a recipe's entries.

    Raises:
        ValueError: the folders are of other models.
    """
    if not run.frozen.exists():
        with replace_folder(run.frozen) as new:
            pipe.model.language_model.save_pretrained(new / "language_model")
            language_model_tokenizer().save_pretrained(new / "language_model")
            pipe.model.vision_model.save_pretrained(new / "vision_model")
            pipe.processor.image_processor.save_pretrained(new / "vision_model")
            pipe.image_generator.save_pretrained(new / "image_generator")
    check_frozen(pipe.model, run)
    return {name: str((run.frozen / name).resolve()) for name in ("language_model", "vision_model", "image_generator")}


def check_frozen(model: GillForConditionalGeneration, run: AblationRun) -> None:
    """
    Refuse a picture book that ablations were not trained for.

    Raises:
        ValueError: its language model or image encoder is not that of the folder.
    """
    for name in ("language_model", "vision_model"):
        stored = load_file(run.frozen / name / "model.safetensors")
        own = getattr(model, name).state_dict()
        if not all(key in own and torch.equal(own[key].cpu().float(), stored[key].float()) for key in stored):
            raise ValueError(f"{run.root} was trained for another {name}; expected ablations of the same picture book.")


def fit_clip_projections(pipe: GillPipeline, path: Path, seed: int, number: int = _BATCHES) -> None:
    """Fit the projections of CLIP's two towers anew, by its contrastive loss: a repository holds the towers alone.

    Args:
        path (`Path`): File to write `text` and `image` to, each of shape `(width, width)`.
        number (`int`): Batches, of scenes with their edits, and of beginnings of stories.
    """
    texts, images = [], []
    for at in range(number):
        drawn = stream(seed, TRAIN, f"projections of CLIP {at}")
        if drawn.random() < _STORIES:
            told = [story_so_far(TRAIN, drawn) for _ in range(_BATCH)]
            captions, scenes = [text for text, _ in told], [scene for _, scene in told]
        else:
            scenes = scenes_with_edits(TRAIN, _BATCH // _EDITS, _EDITS, drawn)
            captions = [caption_for(scene, drawn, MIXTURE) for scene in scenes]
        texts.append(pooled_text_features(pipe, captions))
        images.append(pooled_image_features(pipe, draw_all(scenes, drawn)))
    torch.manual_seed(seed)
    width = texts[0].shape[-1]
    weights = {name: torch.nn.Parameter(torch.eye(width)) for name in ("text", "image")}
    scale = torch.nn.Parameter(torch.tensor(3.0))
    optimizer = torch.optim.AdamW([*weights.values(), scale], lr=2e-3)
    steps = number * _PASSES
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        text, image = (
            functional.normalize(part[step % number] @ weights[name], dim=-1)
            for name, part in (("text", texts), ("image", images))
        )
        logits = scale.exp() * text @ image.T
        right = torch.arange(len(logits))
        loss = functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with replace_file(path) as new:
        save_file({name: weight.detach().contiguous() for name, weight in weights.items()}, new)
