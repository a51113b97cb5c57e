"""Train the adapters: `accelerate launch -m training_gill.train RECIPE.yaml [--learning_rate 1e-3 ...]`.

The output folder is a Hub repository at the end. The same command again goes on from the last whole checkpoint in it.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.trainer_utils import set_seed
from transformers.utils import logging

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill.components_gill import GENERATOR_COMPONENTS
from pipeline_gill.hub_layout_gill import write_code, write_model_index
from pipeline_gill.hub_push_gill import clear_hub_errors
from pipeline_gill.repository_writer_gill import repository_folder

from .collator import CaptionedImageCollator
from .fresh_model import build_model
from .image_feature_cache import ImageFeatureCache
from .image_panel import ImagePanel
from .keyed_arrays import CacheError
from .recipe import Recipe, RecipeError, fail, read_recipe
from .text_targets_cache import TextTargetsCache
from .trainer import GillTrainer, TooManyUnreadable
from .training_data import CaptionedImages, CaptionedImageStream, DataError, open_data
from .training_step import AdapterTrainingStep
from .whole_checkpoints import last_checkpoint

logger = logging.get_logger(__name__)

RECORD_FILE = "training.json"
_INPUT_ERRORS = (RecipeError, DataError, CacheError)


def train(recipe: Recipe) -> dict[str, float]:
    """
    Train as a recipe says and write the repository.

    Returns:
        `dict[str, float]`: The last evaluation's measurements, or the training's where nothing is evaluated.

    Raises:
        RecipeError, DataError, CacheError: before the first step, whatever in the recipe cannot be followed.
        TooManyUnreadable: later.
    """
    args = recipe.training
    _check_arguments(recipe)
    set_seed(args.seed)
    train_data, validation_data = open_training_data(recipe), open_validation_data(recipe)
    dtype = _backbone_dtype(recipe)
    gill, processor = build_model(recipe.model, dtype, args.seed)
    try:
        step = AdapterTrainingStep(gill, recipe.losses.weights())
        collator = build_collator(recipe, gill, processor)
        # So that measurements are those of single examples, whatever training packs and puts before them.
        alone = replace(recipe.data, packing=0.0, context=0, context_images=0.0, request="")
        eval_collator = build_collator(replace(recipe, data=alone), gill, processor)
    except (CacheError, RecipeError):
        raise
    except ValueError as error:
        raise RecipeError(str(error)) from error
    for data in (train_data, validation_data):
        check_cache_covers(collator, data)
    resume = _checkpoint_to_resume(args)
    callbacks = []
    if recipe.losses.panel_steps and isinstance(validation_data, CaptionedImages):
        callbacks.append(
            ImagePanel(
                step,
                processor,
                validation_data,
                Path(args.output_dir) / "panels",
                recipe.losses.panel_steps,
                recipe.losses.panel_images,
                recipe.losses.panel_generate and gill.mapper is not None,
            )
        )
    # With `push_to_hub`, the Trainer makes the repository before anything else.
    with clear_hub_errors(str(args.hub_model_id)):
        trainer = GillTrainer(
            step,
            args,
            processor,
            collator,
            train_data,
            validation_data,
            eval_collator=eval_collator,
            max_unreadable=recipe.data.max_unreadable,
            lr_decay_every=recipe.losses.lr_decay_every,
            lr_decay_factor=recipe.losses.lr_decay_factor,
            callbacks=callbacks,
        )
    if trainer.is_world_process_zero():
        print(start_report(recipe, step, train_data, resume, trainer), flush=True)
    try:
        result = trainer.train(resume_from_checkpoint=resume)
    except ValueError as error:
        if resume is not None and "checkpoint" in str(error):
            raise RecipeError(str(error)) from error
        raise
    measured = {"train_loss": result.training_loss}
    if validation_data is not None:
        measured = trainer.evaluate()
    weights = trainer.gathered_state()
    if args.should_save:
        write_repository(gill, Path(args.output_dir), recipe, measured, trainer, weights)
        print(f"wrote {args.output_dir}: a Hub repository (upload with `hf upload`)", flush=True)
    if args.push_to_hub:
        trainer.push_repository()
    return measured


def open_training_data(recipe: Recipe) -> CaptionedImages | CaptionedImageStream:
    """The data that `train_data` names."""
    data = recipe.data
    assert data.train_data is not None
    seed = recipe.training.data_seed if recipe.training.data_seed is not None else recipe.training.seed
    return open_data(
        data.train_data,
        data.train_split,
        data.train_image_folder,
        data.image_column,
        data.caption_column,
        data.streaming,
        shuffle_seed=seed,
        shuffle_buffer=data.shuffle_buffer,
    )


def open_validation_data(recipe: Recipe) -> CaptionedImages | CaptionedImageStream | None:
    """The data that `validation_data` names, or `None`."""
    data = recipe.data
    if data.validation_data is None:
        return None
    return open_data(
        data.validation_data,
        data.validation_split,
        data.validation_image_folder,
        data.image_column,
        data.caption_column,
    )


def build_collator(
    recipe: Recipe, gill: GillForConditionalGeneration, processor: GillProcessor
) -> CaptionedImageCollator:
    """The collator of a recipe, its caches checked against the model.

    Raises:
        CacheError: a cache that is missing, not whole, or made for something else.
    """
    config, cache = gill.config, recipe.data.cache
    targets = features = None
    if recipe.losses.conditioning_weight:
        if cache is None:
            raise RecipeError(
                "`cache` is not set, but the conditioning loss needs the generator's text embeddings; make them with "
                "`python -m training_gill.precompute`, or set `conditioning_weight: 0`."
            )
        targets = TextTargetsCache(Path(cache))
        targets.check(
            config.image_generator_id,
            config.image_generator_revision,
            config.conditioning_length,
            config.conditioning_dim,
        )
    if cache is not None and ImageFeatureCache.exists(Path(cache)):
        features = ImageFeatureCache(Path(cache))
        features.check(config.vision_model_id, config.vision_model_revision, config.vision_dim)
    data = recipe.data
    return CaptionedImageCollator(
        processor,
        data.max_length,
        data.packing,
        recipe.training.seed,
        targets,
        features,
        data.context,
        data.context_separator,
        data.context_images,
        data.request,
    )


def check_cache_covers(collator: CaptionedImageCollator, data: CaptionedImages | CaptionedImageStream | None) -> None:
    """
    Raises:
        CacheError: captions of the data, if their number is known, that the cache has no target for.
    """
    if not isinstance(data, CaptionedImages) or collator.text_targets is None:
        return
    targets = collator.text_targets
    wanted = [caption for caption in data.captions() if isinstance(caption, str) and caption.strip()]
    missing = [caption for caption in wanted if caption not in targets]
    if missing:
        raise CacheError(
            f"The cache has no target for {len(missing)} of the {len(wanted)} captions of {data.name!r}, "
            f"{missing[0]!r:.80} for one: it was made for other data, or another cut of them; run "
            "`python -m training_gill.precompute` over these."
        )


def start_report(recipe: Recipe, step: AdapterTrainingStep, data: Any, resume: str | None, trainer: GillTrainer) -> str:
    """What a run says before its first step."""
    args = recipe.training
    trained = sum(weight.numel() for weight in step.parameters() if weight.requires_grad)
    everything = sum(weight.numel() for weight in step.parameters())
    names = sorted({name.split(".")[1] for name, weight in step.named_parameters() if weight.requires_grad})
    per_pass = args.train_batch_size * args.world_size
    count = f"{len(data):,} examples" if hasattr(data, "__len__") else "a stream of examples"
    lines = [
        f"trains {trained:,} of {everything:,} parameters: {', '.join(names)}",
        f"on {count} of {data.name}, {per_pass * args.gradient_accumulation_steps} a step",
        f"writes to {args.output_dir}" + (f", going on from {os.path.basename(resume)}" if resume else ""),
    ]
    if args.gradient_accumulation_steps > 1 and step.weights.contrastive:
        lines.append(
            f"accumulates {args.gradient_accumulation_steps} batches a step: the negatives of retrieval are the "
            f"{per_pass - 1} other pairs of one of them"
        )
    return "\n".join(lines)


def write_repository(
    gill: GillForConditionalGeneration,
    out: Path,
    recipe: Recipe,
    measured: dict[str, float],
    trainer: GillTrainer,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write all that makes `out` a Hub repository, complete or not at all; `weights` where FSDP gathered them."""
    with repository_folder(out) as folder:
        trainer._save(str(folder), weights)
        # Of the checkpoints alone: nobody loads it from a repository, and it names this machine's folders.
        (folder / "training_args.bin").unlink()
        absent = {} if gill.mapper is not None else {name: [None, None] for name in GENERATOR_COMPONENTS}
        write_model_index(folder, {"ranking_size": None, **absent})
        write_code(folder)
        record = {
            **recipe.record(),
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "unreadable_examples": trainer.unreadable,
            "measured": {name: value for name, value in measured.items() if isinstance(value, (int, float))},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")


def _check_arguments(recipe: Recipe) -> None:
    args = recipe.training
    if args.n_gpu > 1:
        raise RecipeError(
            f"{args.n_gpu} GPUs are visible to one process; start one process each with `accelerate launch -m "
            "training_gill.train ...`, or show one with CUDA_VISIBLE_DEVICES."
        )
    if args.activation_checkpointing:
        raise RecipeError("`activation_checkpointing` is not supported: captions are read over a key-value cache.")
    if args.eval_strategy != "no" and recipe.data.validation_data is None:
        raise RecipeError(f"`eval_strategy` is {str(args.eval_strategy.value)!r}, but `validation_data` is not set.")
    if recipe.data.streaming and args.max_steps <= 0:
        raise RecipeError(f"`streaming` needs `max_steps`, as a stream has no length; it is {args.max_steps}.")
    # A stream's examples are of different shapes: each process collates its own.
    args.accelerator_config.dispatch_batches = False
    if args.data_seed is None:
        args.data_seed = args.seed


def _backbone_dtype(recipe: Recipe) -> torch.dtype:
    if recipe.model.backbone_dtype != "auto":
        return getattr(torch, recipe.model.backbone_dtype)
    if recipe.training.bf16:
        return torch.bfloat16
    return torch.float16 if recipe.training.fp16 else torch.float32


def _checkpoint_to_resume(args: Any) -> str | None:
    asked = args.resume_from_checkpoint
    if asked and str(asked).lower() not in ("true", "false"):
        if not os.path.isdir(asked):
            raise RecipeError(f"`resume_from_checkpoint` names {asked!r}, which is no folder.")
        return str(asked)
    found = last_checkpoint(args.output_dir)
    if found is not None and str(asked).lower() == "false":
        raise RecipeError(
            f"{args.output_dir!r} holds {os.path.basename(found)}, which a new run would mix with its own; go on from "
            "it, or write to another folder."
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        Exit code: 0; 1 if too many examples cannot be read; 2 for a recipe or data that cannot be trained on.
    """
    try:
        train(read_recipe(sys.argv[1:] if argv is None else argv))
    except (*_INPUT_ERRORS, PermissionError) as error:
        return fail(error)
    except TooManyUnreadable as error:
        fail(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
