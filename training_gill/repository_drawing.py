"""How the repository that a training writes draws its images, where the recipe says it."""

from dataclasses import dataclass, field
from typing import Any

from modeling_gill import GillConfig
from pipeline_gill.frozen_models import FrozenModel, FrozenModelError
from pipeline_gill.generator_parts import load_ddpm_scheduler

from .recipe import Recipe, RecipeError
from .step_building import guides_by_empty_prompt


@dataclass(frozen=True)
class RepositoryDrawing:
    """
    What a repository has of its own for drawing.

    Attributes:
        components (`dict[str, Any]`): Components in place of the image generator's, by name.
        pipeline_config (`dict[str, Any]`): Arguments of [`GillPipeline`].
    """

    components: dict[str, Any] = field(default_factory=dict)
    pipeline_config: dict[str, Any] = field(default_factory=dict)


def repository_drawing(recipe: Recipe, config: GillConfig) -> RepositoryDrawing:
    """
    What a recipe says of it.

    Raises:
        RecipeError: a scheduler for a model without an image generator, or one that the generator has no numbers for.
    """
    arguments = recipe.model
    entries: dict[str, Any] = {"negative_conditioning": "empty_prompt"} if guides_by_empty_prompt(recipe) else {}
    for name in ("num_inference_steps", "guidance_scale"):
        if getattr(arguments, name) is not None:
            entries[name] = getattr(arguments, name)
    if arguments.scheduler is None:
        return RepositoryDrawing(pipeline_config=entries)
    if config.image_generator_id is None:
        raise RecipeError(f"`scheduler` is {arguments.scheduler}, but the model names no image generator to draw with.")
    generator = FrozenModel(
        "image generator", config.image_generator_id, "`image_generator`", config.image_generator_revision
    )
    try:
        scheduler, _ = load_ddpm_scheduler(generator)
    except FrozenModelError as error:
        raise RecipeError(f"`scheduler` is {arguments.scheduler}. {error}") from error
    return RepositoryDrawing({"scheduler": scheduler}, entries)


__all__ = ["RepositoryDrawing", "repository_drawing"]
