"""Train the adapters as a recipe says, and write a Hub repository. `gill train` is this with options as text."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, set_seed

from modeling_gill import GillForConditionalGeneration, GillProcessor
from modeling_gill.fingerprint_gill import library_versions
from modeling_gill.language_model_lora_gill import has_lora
from pipeline_gill.hub_push_gill import OneCommit, clear_hub_errors, files_of
from pipeline_gill.repository_writer_gill import REPOSITORY_FILES
from pipeline_gill.repository_writer_gill import write_repository as write_gill_repository

from .arguments import TrainCommand
from .caches import (
    CacheError,
    ImageFeatureCache,
    LanguageStatesCache,
    TextTargetsCache,
    feature_info,
    read_negatives,
    states_info,
    target_info,
)
from .callbacks import hide_loading_bars
from .checkpoints import last_checkpoint, only_writer
from .collator import CaptionedImageCollator
from .image_panel import ImagePanel
from .model_building import TRAINING_RECORD, build_model
from .recipe import Recipe, RecipeError, describe_entries, parse_overrides, read_recipe, record_sets
from .record_mixture import RecordMixture, open_mixture
from .record_step import RecordTrainingStep
from .repository_drawing import RepositoryDrawing, repository_drawing
from .sizes import recipe_sizes
from .step_building import build_denoising_loss, build_record_collator, build_step, target_size
from .trainer import GillTrainer
from .training_data import CaptionedImages, CaptionedImageStream, open_data
from .training_step import AdapterTrainingStep

RECORD_FILE = TRAINING_RECORD


def train(recipe: str | os.PathLike[str] | dict[str, Any] | Recipe, **overrides: Any) -> dict[str, float]:
    """
    Train the adapters of a GILL model and write them as a Hub repository.

    Started again, a killed training continues from its last checkpoint, and a finished one returns what it measured.
    On several GPUs: `accelerate launch -m gill train recipe.yaml`.

    Args:
        recipe: A YAML file, the name of a shipped one such as `"gill_cc3m"`, a mapping, or a [`Recipe`].
        overrides: Entries that replace those of the recipe, fields of transformers' `TrainingArguments` among them.

    Returns:
        `dict[str, float]`: Metrics of the last evaluation, or the training loss where nothing is evaluated.

    Raises:
        ValueError: before the first step, if the recipe, its data or its cache cannot be used; `TooManyUnreadable`
            later. BlockingIOError: another process trains into the same folder.

    Example:

        >>> from training_gill import train
        >>> metrics = train("gill_cc3m", train_data="cc3m.tsv", output_dir="gill")  # doctest: +SKIP
    """
    if not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe, **overrides)
    elif overrides:
        raise TypeError("Overrides are applied when a recipe is read; give them to `read_recipe`.")
    _check_arguments(recipe)
    args = recipe.training
    if not args.should_save:
        return _train(recipe)
    with only_writer(args.output_dir):
        return _train(recipe)


def run_train(command: TrainCommand) -> None:
    """Run `gill train`."""
    words = [*([command.recipe] if command.recipe is not None else []), *command.overrides]
    recipe, overrides = parse_overrides(words)
    if command.list_entries:
        print(describe_entries())
        return
    if recipe is None:
        raise RecipeError("No recipe was given; expected a .yaml file, or the name of a shipped one as gill_cc3m.")
    hide_loading_bars()
    if command.sizes:
        # No accelerator is needed to count.
        print(recipe_sizes(read_recipe(recipe, use_cpu=True, **overrides), command.processes))
        return
    train(recipe, **overrides)


def open_training_data(recipe: Recipe) -> CaptionedImages | CaptionedImageStream | RecordMixture:
    """The data that `train_data` names."""
    data = recipe.data
    assert data.train_data is not None
    seed = recipe.training.data_seed if recipe.training.data_seed is not None else recipe.training.seed
    if isinstance(data.train_data, list):
        return open_mixture(record_sets(data.train_data, "train_data"), seed, data.shuffle_buffer)
    return open_data(
        data.train_data,
        data.train_split,
        data.train_image_folder,
        data.image_column,
        data.caption_column,
        data.streaming,
        shuffle_seed=seed,
        shuffle_buffer=data.shuffle_buffer,
        target_caption_column=data.target_caption_column,
    )


def open_validation_data(recipe: Recipe) -> CaptionedImages | CaptionedImageStream | RecordMixture | None:
    """The data that `validation_data` names, or `None`."""
    data = recipe.data
    if data.validation_data is None:
        return None
    if isinstance(data.validation_data, list):
        return open_mixture(record_sets(data.validation_data, "validation_data"), seed=None)
    return open_data(
        data.validation_data,
        data.validation_split,
        data.validation_image_folder,
        data.image_column,
        data.caption_column,
        target_caption_column=data.target_caption_column,
    )


def build_collator(
    recipe: Recipe, gill: GillForConditionalGeneration, processor: GillProcessor, target_size: int | None = None
) -> CaptionedImageCollator:
    """The collator of a recipe, its caches checked against the model.

    Args:
        target_size (`int`, *optional*): Side of the images that are drawn, where they are.

    Raises:
        CacheError: a cache that is missing, incomplete, damaged, or made for something else.
    """
    config, data = gill.config, recipe.data
    targets = features = states = None
    losses = recipe.losses
    compares = losses.denoising_weight and losses.denoising_target == "generator"
    if losses.conditioning_weight or losses.reconstruction_weight or compares:
        if data.cache is None:
            raise RecipeError(
                "`cache` is not set, but "
                + ("`denoising_target: generator`" if compares else "the conditioning loss")
                + " needs the generator's text embeddings; make them with `gill precompute`"
                + ("." if compares else ", or set `conditioning_weight: 0` and `reconstruction_weight: 0`.")
            )
        info = target_info(config.image_generator_id, config.image_generator_revision, config.conditioning_tensors)
        targets = TextTargetsCache(Path(data.cache), info)
    if data.cache is not None and ImageFeatureCache.exists(Path(data.cache)):
        info = feature_info(
            config.vision_model_id, config.vision_model_revision, config.image_feature_shape, config.image_pooling
        )
        features = ImageFeatureCache(Path(data.cache), info)
    is_fixed = not recipe.model.train_img_embeddings
    if data.cache is not None and is_fixed and LanguageStatesCache.exists(Path(data.cache)):
        states = LanguageStatesCache(Path(data.cache), states_info(gill, data.max_length))
        if has_lora(gill.language_model):
            raise RecipeError("`lora` changes the states that the cache holds; use a cache without states.")
    return CaptionedImageCollator(
        processor,
        max_length=data.max_length,
        packing=data.packing,
        seed=recipe.training.seed,
        text_targets=targets,
        image_features=features,
        context=data.context,
        context_separator=data.context_separator,
        context_images=data.context_images,
        request=data.request,
        language_states=states,
        target_size=target_size,
    )


def check_cache_covers(collator: CaptionedImageCollator, data: Any) -> None:
    """
    Raises:
        CacheError: captions of the data, if their number is known, that the cache has no target or no states for.
    """
    if not isinstance(data, CaptionedImages):
        return
    for what, cache, captions in (
        ("target", collator.text_targets, data.target_captions),
        ("states", collator.language_states, data.captions),
    ):
        if cache is None:
            continue
        usable = [caption for caption in captions() if isinstance(caption, str) and caption.strip()]
        missing = [caption for caption in usable if caption not in cache]
        if missing:
            raise CacheError(
                f"The cache has no {what} for {len(missing)} of the {len(usable)} captions of {data.name!r}, "
                f"{missing[0]!r:.80} for one: it was made for other data, or another cut of them; run `gill "
                "precompute` over these."
            )


def start_report(
    recipe: Recipe, step: AdapterTrainingStep | RecordTrainingStep, data: Any, resume: str | None, trainer: GillTrainer
) -> str:
    """What a run prints before its first step."""
    args = recipe.training
    trained = sum(weight.numel() for weight in step.parameters() if weight.requires_grad)
    everything = sum(weight.numel() for weight in step.parameters())
    names = sorted({name.split(".")[1] for name, weight in step.named_parameters() if weight.requires_grad})
    per_pass = args.train_batch_size * args.world_size
    count = f"{len(data):,} examples" if hasattr(data, "__len__") else "a stream of examples"
    lines = [
        f"trains {trained:,} of {everything:,} parameters: {', '.join(names)}",
        f"on {count} of {data.name}, {per_pass * args.gradient_accumulation_steps} a step",
        f"writes to {args.output_dir}" + (f", continues from {os.path.basename(resume)}" if resume else ""),
    ]
    if args.gradient_accumulation_steps > 1 and step.weights.contrastive:
        lines.append(
            f"accumulates {args.gradient_accumulation_steps} batches a step: the negatives of retrieval are the "
            f"{per_pass - 1} other pairs of one of them"
        )
    return "\n".join(lines)


def write_repository(
    recipe_record: dict[str, Any],
    metrics: dict[str, float],
    trainer: GillTrainer,
    weights: Any = None,
    negatives: dict[str, torch.Tensor] | None = None,
    drawing: RepositoryDrawing | None = None,
) -> None:
    """Write the output folder as a Hub repository, in one step; checkpoints, panels and a card stay.

    Args:
        recipe_record (`dict`): Of [`Recipe.record`], before the Trainer has changed the arguments.
        metrics (`dict[str, float]`): Of the last evaluation.
        weights: Where FSDP gathered them.
        negatives (`dict[str, torch.Tensor]`, *optional*):
            What the image generator guides away from, so that no text encoder is needed to draw.
        drawing ([`RepositoryDrawing`], *optional*): How the repository draws, by default as the image generator does.
    """
    record = {
        **recipe_record,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "unreadable_examples": trainer.unreadable,
        "measured": {name: value for name, value in metrics.items() if isinstance(value, (int, float))},
        "versions": library_versions("torch", "transformers"),
    }
    drawing = drawing or RepositoryDrawing()
    write_gill_repository(
        str(trainer.args.output_dir),
        trainer.gill,
        trainer.processor,
        generator=drawing.components,
        pipeline_config={"ranking_size": None, **drawing.pipeline_config},
        negative_conditioning=negatives,
        extra_files={RECORD_FILE: record},
        state_dict=trainer.own_weights(weights),
    )


def push_repository(recipe: Recipe) -> None:
    """Upload the output folder, without checkpoints, to `hub_model_id`; in one commit.

    Raises:
        OSError: the Hub refuses it, or cannot be reached.
    """
    args = recipe.training
    api, repo_id = HfApi(token=args.hub_token), str(args.hub_model_id or Path(args.output_dir).absolute().name)
    with clear_hub_errors(repo_id):
        # Names without a namespace are the user's own.
        repo_id = api.create_repo(repo_id, private=args.hub_private_repo, exist_ok=True).repo_id
    files = {
        name: path
        for name, path in files_of(args.output_dir).items()
        if not name.startswith((f"{PREFIX_CHECKPOINT_DIR}-", "."))
    }
    push = OneCommit(files, repo_id, api, outdated=REPOSITORY_FILES, revision=args.hub_revision)
    push.commit("Training finished")


def _train(recipe: Recipe) -> dict[str, float]:
    args = recipe.training
    recipe_record = recipe.record()
    finished = _metrics_of_finished(recipe, recipe_record)
    if finished is not None:
        if args.should_save:
            print(f"{args.output_dir} is finished by this recipe already; nothing is trained", flush=True)
            if args.push_to_hub:
                push_repository(recipe)
        return finished
    set_seed(args.seed)
    train_data, validation_data = open_training_data(recipe), open_validation_data(recipe)
    # An optimizer's steps are too small for bfloat16.
    learns_language = recipe.trains_on_records and "language_model" in recipe.learns
    gill, processor = build_model(
        recipe.model,
        recipe.backbone_dtype(),
        args.seed,
        recipe.data.cache,
        language_dtype=torch.float32 if learns_language else None,
    )
    if recipe.model.truncate_text is not None:
        processor.truncate_text = recipe.model.truncate_text
    # Before the training, so that a scheduler that cannot be loaded does not cost its result.
    drawing = repository_drawing(recipe, gill.config)
    try:
        step, collator, eval_collator = _step_and_collators(recipe, gill, processor)
    except (CacheError, RecipeError):
        raise
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if isinstance(collator, CaptionedImageCollator):
        for data in (train_data, validation_data):
            check_cache_covers(collator, data)
    resume = _checkpoint_to_resume(args)
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
            callbacks=_panels(recipe, step, processor, validation_data),
        )
    if trainer.is_world_process_zero():
        print(start_report(recipe, step, train_data, resume, trainer), flush=True)
    try:
        result = trainer.train(resume_from_checkpoint=resume)
    except ValueError as error:
        if resume is not None and "checkpoint" in str(error):
            raise RecipeError(str(error)) from error
        raise
    metrics = {"train_loss": result.training_loss}
    if validation_data is not None:
        metrics = trainer.evaluate()
    weights = trainer.gathered_state()
    if args.should_save:
        has_targets = isinstance(collator, CaptionedImageCollator) and collator.text_targets is not None
        cache = recipe.data.cache if has_targets else None
        negatives = read_negatives(Path(cache)) if cache is not None else None
        write_repository(recipe_record, metrics, trainer, weights, negatives, drawing)
        print(f"wrote {args.output_dir}: a Hub repository (upload with `gill push`)", flush=True)
    if args.push_to_hub and trainer.is_world_process_zero():
        trainer.wait_for_pushes()
        push_repository(recipe)
    return metrics


def _step_and_collators(
    recipe: Recipe, gill: GillForConditionalGeneration, processor: GillProcessor
) -> tuple[AdapterTrainingStep | RecordTrainingStep, Any, Any]:
    """The step, and the collators of training and of evaluation."""
    denoising = build_denoising_loss(recipe, gill)
    if recipe.trains_on_records:
        collator = build_record_collator(recipe, processor, denoising)
        step = build_step(recipe, gill, denoising, collator)
        return step, collator, build_record_collator(recipe, processor, denoising, for_training=False)
    # Metrics are of single examples, whatever training packs and puts before them.
    alone = replace(recipe.data, packing=0.0, context=0, context_images=0.0, request="")
    step = build_step(recipe, gill, denoising)
    size = target_size(recipe, denoising)
    first, second = (build_collator(r, gill, processor, size) for r in (recipe, replace(recipe, data=alone)))
    return step, first, second


def _panels(
    recipe: Recipe,
    step: AdapterTrainingStep | RecordTrainingStep,
    processor: GillProcessor,
    data: CaptionedImages | Any,
) -> list[ImagePanel]:
    losses = recipe.losses
    if not losses.panel_steps or not isinstance(data, CaptionedImages) or not isinstance(step, AdapterTrainingStep):
        return []
    return [
        ImagePanel(
            step,
            processor,
            data,
            Path(recipe.training.output_dir) / "panels",
            every=losses.panel_steps,
            num_examples=losses.panel_images,
            generate=losses.panel_generate and step.gill.mapper is not None,
        )
    ]


def _metrics_of_finished(recipe: Recipe, recipe_record: dict[str, Any]) -> dict[str, float] | None:
    """What a training with this very recipe measured, if its repository is there."""
    asked = recipe.training.resume_from_checkpoint
    if asked and str(asked).lower() != "true":
        return None
    path = Path(recipe.training.output_dir) / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        is_same = recipe_record == {name: record[name] for name in recipe_record}
        return record["measured"] if is_same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_arguments(recipe: Recipe) -> None:
    """
    Refuse what cannot be trained, and set what the Trainer leaves open.

    Raises:
        RecipeError: an entry that cannot be followed.
    """
    args = recipe.training
    if args.n_gpu > 1:
        raise RecipeError(
            f"{args.n_gpu} GPUs are visible to one process; start one process for each with `accelerate launch -m gill "
            "train ...`, or show one with CUDA_VISIBLE_DEVICES."
        )
    if args.activation_checkpointing and not recipe.trains_on_records:
        raise RecipeError("`activation_checkpointing` is not supported: captions are read over a key-value cache.")
    if args.eval_strategy != "no" and recipe.data.validation_data is None:
        raise RecipeError(f"`eval_strategy` is {str(args.eval_strategy.value)!r}, but `validation_data` is not set.")
    if recipe.data.streaming and args.max_steps <= 0:
        raise RecipeError(f"`streaming` needs `max_steps`, as a stream has no length; it is {args.max_steps}.")
    # A stream's examples are of different shapes: each process collates its own.
    args.accelerator_config.dispatch_batches = False
    if args.data_seed is None:
        args.data_seed = args.seed


def _checkpoint_to_resume(args: Any) -> str | None:
    asked = args.resume_from_checkpoint
    if asked and str(asked).lower() not in ("true", "false"):
        if not os.path.isdir(asked):
            raise RecipeError(f"`resume_from_checkpoint` names {asked!r}, which is no folder.")
        return str(asked)
    found = last_checkpoint(args.output_dir)
    if found is not None and str(asked).lower() == "false":
        raise RecipeError(
            f"{args.output_dir!r} holds {os.path.basename(found)}, which a new run would mix with its own; continue "
            "from it, or write to another folder."
        )
    return found


__all__ = ["RECORD_FILE", "push_repository", "run_train", "train", "write_repository"]
