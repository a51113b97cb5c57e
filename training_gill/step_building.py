"""The step and the collators of a recipe over records, and the denoising loss of any recipe."""

from pathlib import Path

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill.conditioning_capture_gill import capture_negatives

from .caches import TextTargetsCache, read_negatives
from .denoising_loss import DenoisingLoss, DenoisingOptions
from .recipe import Recipe, RecipeError
from .record_collator import RecordCollator
from .record_step import RecordTrainingStep
from .target_encoder import load_generator
from .training_step import AdapterTrainingStep


def build_denoising_loss(recipe: Recipe, gill: GillForConditionalGeneration) -> DenoisingLoss | None:
    """
    The denoising loss of the image generator that a model names; `None` where its weight is 0.

    Raises:
        RecipeError: a model without an image generator. DataError: a generator that cannot be loaded.
        UntrainableGenerator: one through which no denoising loss can be computed.
    """
    losses, config = recipe.losses, gill.config
    if not losses.denoising_weight:
        return None
    if config.image_generator_id is None or config.mapper_type is None:
        raise RecipeError(
            f"`denoising_weight` is {losses.denoising_weight}, but the model names no image generator to denoise with."
        )
    options = DenoisingOptions(
        noise_offset=losses.noise_offset,
        input_perturbation=losses.input_perturbation,
        min_snr_gamma=losses.min_snr_gamma,
        condition_dropout=losses.condition_dropout,
        timestep_bias_multiplier=losses.timestep_bias_multiplier,
        timestep_bias_portion=losses.timestep_bias_portion,
        num_draws=losses.denoising_draws,
        target=losses.denoising_target,
    )
    cache = recipe.data.cache
    # What the generator guides away from by itself comes from its text encoders.
    needs_negatives = losses.condition_dropout > 0 and not guides_by_empty_prompt(recipe)
    negatives = (
        read_negatives(Path(cache)) if needs_negatives and cache and TextTargetsCache.exists(Path(cache)) else None
    )
    generator = load_generator(
        config.image_generator_id,
        config.image_generator_revision,
        recipe.backbone_dtype(),
        without_text=not needs_negatives or bool(negatives),
    )
    if needs_negatives and not negatives:
        negatives = capture_negatives(generator, config.conditioning_tensors)
    if (recipe.training.fsdp_config or {}).get("activation_checkpointing"):
        # FSDP recomputes what it shares out, of which the generator is no part.
        generator_denoiser = getattr(generator, "unet", None) or generator.transformer
        generator_denoiser.enable_gradient_checkpointing()
    return DenoisingLoss(generator, config.conditioning_tensors, options, negatives)


def guides_by_empty_prompt(recipe: Recipe) -> bool:
    """Whether images are guided away from what the model makes of no prompt."""
    return recipe.model.negative_conditioning == "empty_prompt"


def target_size(recipe: Recipe, denoising: DenoisingLoss | None) -> int | None:
    """
    Side of the images that are drawn, in pixels; `None` where none are.

    Raises:
        RecipeError: an image generator that does not say at which size it draws.
    """
    if denoising is None or recipe.data.resolution is not None:
        return recipe.data.resolution if denoising is not None else None
    size = denoising.denoiser.default_size
    if size is None:
        raise RecipeError(
            f"`resolution` is not set, and {denoising.denoiser.name} does not say at which size it draws."
        )
    return size


def build_record_collator(
    recipe: Recipe, processor: GillProcessor, denoising: DenoisingLoss | None, for_training: bool = True
) -> RecordCollator:
    """The collator of a recipe over records; examples that are evaluated are not mirrored."""
    return RecordCollator(
        processor,
        target_size(recipe, denoising),
        recipe.data.max_length,
        recipe.training.seed,
        random_flip=recipe.data.random_flip and for_training,
    )


def build_step(
    recipe: Recipe,
    gill: GillForConditionalGeneration,
    denoising: DenoisingLoss | None,
    collator: RecordCollator | None = None,
) -> AdapterTrainingStep | RecordTrainingStep:
    """
    What the Trainer trains.

    Args:
        collator ([`RecordCollator`], *optional*): Of a recipe over records.

    Raises:
        ValueError: weights that train nothing, or that do not fit the model.
    """
    weights = recipe.loss_weights()
    if collator is None:
        if guides_by_empty_prompt(recipe) and recipe.losses.condition_dropout:
            raise RecipeError(
                "`negative_conditioning` is empty_prompt and `condition_dropout` "
                f"{recipe.losses.condition_dropout}: expected to train on records, which read the empty prompt too."
            )
        return AdapterTrainingStep(gill, weights, recipe.model.train_img_embeddings, denoising)
    if denoising is not None and denoising.options.target == "generator":
        raise RecipeError("`denoising_target` is generator: expected images with captions, not records.")
    empty_prompt = [*collator.encoder.bos, *gill.config.image_output_run_ids]
    own = empty_prompt if guides_by_empty_prompt(recipe) else None
    return RecordTrainingStep(gill, weights, recipe.learns, denoising, own)


__all__ = ["build_denoising_loss", "build_record_collator", "build_step", "guides_by_empty_prompt", "target_size"]
