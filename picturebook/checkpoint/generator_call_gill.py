"""The call of an image generator: what it takes, and why it may not be conditioned by a model. No pipeline is named."""

import copy
import inspect
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from diffusers import DiffusionPipeline

NEGATIVE = "negative_"


class UnconditionableGenerator(ValueError):
    """A generator that cannot be conditioned by a model; the message names it and the reason."""


class ImageDiffersError(UnconditionableGenerator):
    """The image of a generator's encoded prompt is not that of the prompt."""


class CallFailedError(UnconditionableGenerator):
    """A generator cannot be called with what it makes of a prompt, or not at all."""


def call_parameters(generator: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a generator's call by name; none of a pipeline without one, `None`."""
    if generator is None:
        return {}
    parameters = dict(inspect.signature(type(generator).__call__).parameters)
    parameters.pop("self")
    return parameters


def copy_generator(generator: Any) -> Any:
    """A copy that shares the weights and no state: what a call sets on it, and its scheduler, are its own."""
    copied = copy.copy(generator)
    for name, value in vars(generator).items():
        if isinstance(value, DiffusionPipeline):
            vars(copied)[name] = copy_generator(value)
        elif name == "scheduler" or name.endswith("_scheduler"):
            vars(copied)[name] = copy.deepcopy(value)
    for name, value in vars(copied).items():
        # The pipelines that a pipeline is made of have its schedulers.
        if isinstance(value, DiffusionPipeline):
            for own, scheduler in vars(generator).items():
                if own.endswith("scheduler") and getattr(vars(generator)[name], "scheduler", None) is scheduler:
                    value.scheduler = vars(copied)[own]
    return copied


def without_negative_prompt(generator: Any) -> dict[str, None]:
    """The argument by which a generator whose call has a negative prompt of its own takes negatives in its place."""
    return {"negative_prompt": None} if "negative_prompt" in call_parameters(generator) else {}


def size_multiple(generator: Any, call: Mapping[str, Any]) -> int:
    """
    What height and width of a generator's images must be multiples of: others it refuses or rounds.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): Of any kind.
        call (`Mapping[str, Any]`): Arguments of its call.
    """
    multiples = [int(number) for number in re.findall(r"height % (\d+)\b", _source_of_checks(generator.__class__))]
    multiples = [number for number in multiples if number > 0]
    binned = call_parameters(generator).get("use_resolution_binning")
    if binned is None or not call.get("use_resolution_binning", binned.default):
        factor = getattr(generator, "vae_scale_factor", None)
        denoiser = getattr(generator, "transformer", None)
        patch = getattr(getattr(denoiser, "config", None), "patch_size", None)
        processor = getattr(getattr(generator, "image_processor", None), "config", {})
        # Of some, the processor of images knows how many latents make one position.
        factors = (factor, processor.get("vae_scale_factor"), (factor or 1) * patch if type(patch) is int else None)
        multiples += [number for number in factors if type(number) is int and number > 0]
    return math.lcm(*multiples) if multiples else 8


@lru_cache
def _source_of_checks(generator_class: type) -> str:
    checks = getattr(generator_class, "check_inputs", None)
    try:
        return "" if checks is None else inspect.getsource(checks)
    except OSError:  # no source, as in an interactive session
        return ""


def takes_sizes_together(generator: Any) -> bool:
    """Whether a generator falls back to its own height and width where one of them is not given."""
    try:
        return "not height or not width" in inspect.getsource(type(generator).__call__)
    except (OSError, TypeError):  # no source, as in an interactive session
        return False


def refusal(generator: Any, reason: str) -> UnconditionableGenerator:
    return UnconditionableGenerator(f"{type(generator).__name__} cannot be conditioned by a model: {reason}.")


__all__ = [
    "NEGATIVE",
    "CallFailedError",
    "ImageDiffersError",
    "UnconditionableGenerator",
    "call_parameters",
    "copy_generator",
    "refusal",
    "size_multiple",
    "takes_sizes_together",
    "without_negative_prompt",
]
