"""Parts of an image generator by its name and revision, each loaded by itself."""

import inspect
from typing import Any

from diffusers import DDPMScheduler, StableDiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError

from .frozen_models import FrozenModel, FrozenModelError

_DDPM_PREDICTIONS = ("epsilon", "sample", "v_prediction")


def load_generator_part(load: Any, model: FrozenModel, part: str, **options: Any) -> Any:
    """
    A function of diffusers such as `from_pretrained` or `load_config`, with errors that name the option.

    Raises:
        FrozenModelError: the part cannot be found or read.
    """
    try:
        return load(model.name, subfolder=part, revision=model.revision or "main", **options)
    except (OSError, ValueError, KeyError, HfHubHTTPError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FrozenModelError(
            f"The {part} of the {model} could not be loaded: {reason}; {model.option} names another."
        ) from error


def load_ddpm_scheduler(model: FrozenModel) -> tuple[DDPMScheduler, dict[str, Any]]:
    """
    The DDPM scheduler with the numbers of the generator's own, whatever kind that is: what DreamLLM draws with.

    Returns:
        The scheduler, and those of its settings that diffusers' pipeline for Stable Diffusion replaces.

    Raises:
        FrozenModelError: the generator has no scheduler, or one without the betas of a diffusion.
    """
    config = load_generator_part(DDPMScheduler.load_config, model, "scheduler")
    diffuses = "beta_start" in config or config.get("trained_betas") is not None
    if not diffuses or config.get("prediction_type", "epsilon") not in _DDPM_PREDICTIONS:
        raise FrozenModelError(
            f"The {model} has the scheduler {config.get('_class_name')} (prediction_type "
            f"{config.get('prediction_type')!r}), whose numbers are not those of DDPM; {model.option} names another."
        )
    known = inspect.signature(DDPMScheduler.__init__).parameters
    scheduler = DDPMScheduler(**{name: config[name] for name in known if name in config})
    own = dict(scheduler.config)
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
    copy: Any = DDPMScheduler.from_config(own)
    used = StableDiffusionPipeline(**parts, scheduler=copy, requires_safety_checker=False).scheduler.config
    return scheduler, {name: used[name] for name in known if name in own and used[name] != own[name]}


__all__ = ["load_ddpm_scheduler", "load_generator_part"]
