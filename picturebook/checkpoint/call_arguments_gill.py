"""Checks of the arguments of a call: their names and their values."""

import difflib
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from diffusers import SchedulerMixin
from transformers import GenerationConfig, GenerationMixin

from .answer_gill import DECISIONS
from .generated_images_gill import Generators
from .generator_call_gill import call_parameters, size_multiple, takes_sizes_together
from .image_generator_gill import ImageGeneratorMixin

# Arguments of `generate` that the pipeline sets, or that are none of a call.
_NOT_OF_GENERATE = {"self", "inputs", "kwargs", "return_dict_in_generate", "transformers_version", "custom_generate"}
# Arguments of image generators that the pipeline sets, or that diffusers has deprecated.
_SET_BY_PIPELINE = {"self", "prompt_embeds", "callback", "callback_steps"}


def check_names(
    image_generator: Any, own: Collection[str], kwargs: Iterable[str], image_generator_kwargs: Mapping[str, Any]
) -> None:
    """Refuse keyword arguments that neither transformers' `generate` nor the image generator takes.

    Args:
        image_generator: The diffusers pipeline that `image_generator_kwargs` go to.
        own (`Collection[str]`): Names of the arguments of [`GillPipeline.__call__`] itself.
        kwargs (`Iterable[str]`): Names of the other arguments, which go to `generate`.
        image_generator_kwargs (`Mapping[str, Any]`): By name, those of the image generator.

    Raises:
        TypeError: naming the argument, and the nearest name or where it belongs.
    """
    of_generate = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    of_generate |= set(inspect.signature(GenerationMixin.generate).parameters) | {"tokenizer", "assistant_tokenizer"}
    of_generate -= _NOT_OF_GENERATE
    parameters = call_parameters(image_generator).values()
    of_generator = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD} - set(own) - _SET_BY_PIPELINE
    if not isinstance(image_generator_kwargs, Mapping):
        raise TypeError(f"`image_generator_kwargs` must be a dict, got {image_generator_kwargs!r:.60}")
    for name in kwargs:
        if name in of_generator:
            raise TypeError(
                f"GillPipeline.__call__() got an unexpected keyword argument {name!r}; the image generator's own "
                f"arguments go into `image_generator_kwargs={{{name!r}: ...}}`"
            )
        if name not in of_generate:
            near = _nearest(name, {*of_generate, *own})
            raise TypeError(f"GillPipeline.__call__() got an unexpected keyword argument {name!r}{near}")
    for name in image_generator_kwargs:
        if name in own:
            raise TypeError(f"`image_generator_kwargs` has {name!r}; give it as an argument of the call")
        if name not in of_generator:
            raise TypeError(
                f"`image_generator_kwargs` has {name!r}, which {type(image_generator).__name__} does not take here"
                f"{_nearest(name, of_generator)}"
            )


def check_reference_argument(image_generator: Any, name: str, given: Collection[str]) -> None:
    """Refuse an argument of the image generator that cannot take the retrieved image.

    Args:
        given (`Collection[str]`): Arguments of the image generator that the caller has set.

    Raises:
        ValueError: naming the argument and the image generator.
    """
    parameters = call_parameters(image_generator)
    if name not in parameters or name in _SET_BY_PIPELINE:
        raise ValueError(
            f"`reference_argument` must name an argument of {type(image_generator).__name__} that takes an image, got "
            f"{name!r}{_nearest(name, parameters)}"
        )
    if name in given:
        raise ValueError(f"`reference_argument={name!r}` and `{name}` are both given; expected one of them.")


def check_integer(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless `value` is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def check_number(name: str, value: Any) -> None:
    """Raise a ValueError unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or value != value or abs(float(value)) == float("inf"):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}.")


def check_per_prompt(name: str, value: Any, kind: type, batch_size: int) -> None:
    """Raise a ValueError unless `value` is None, one of `kind` or a list with one for each prompt."""
    if isinstance(value, (list, tuple)):
        if len(value) != batch_size:
            raise ValueError(f"`{name}` is a list of {len(value)} for {batch_size} prompts; expected one each.")
        wrong = [item for item in value if not isinstance(item, kind)]
    else:
        wrong = [] if value is None or isinstance(value, kind) else [value]
    if wrong:
        what = "torch.Generator" if kind is torch.Generator else kind.__name__
        raise ValueError(f"`{name}` must be a `{what}` or a list with one for each prompt, got {wrong[0]!r:.60}.")


def check_generators(generator: Any, batch_size: int, max_images: int) -> None:
    """Raise a ValueError unless `generator` is None, a generator, or a list that has for each prompt a generator or a
    list with one for each image of its answer."""
    lists = [own for own in generator if isinstance(own, (list, tuple))] if isinstance(generator, (list, tuple)) else []
    for own in lists:
        if len(own) != max_images:
            raise ValueError(
                f"`generator` has a list of {len(own)} for a prompt, and its answer may have {max_images} images "
                "(`max_images`); expected one each."
            )
        check_per_prompt("generator", own, torch.Generator, max_images)
    if not lists:
        check_per_prompt("generator", generator, torch.Generator, batch_size)
    elif len(lists) != batch_size:
        raise ValueError(f"`generator` has lists for {len(lists)} of {batch_size} prompts; expected one for each.")


def check_rows(name: str, value: Any, rows: int) -> None:
    """Raise a ValueError unless `value` is None or a tensor whose first dimension is `rows`."""
    if value is not None and not (isinstance(value, torch.Tensor) and value.shape[:1] == (rows,)):
        got = f"one of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:60]
        raise ValueError(f"`{name}` must be a tensor whose first dimension is {rows}, got {got}.")
    if value is not None and not torch.isfinite(value).all():
        raise ValueError(f"`{name}` holds values that are not finite (NaN or infinite).")


def check_flags(flags: Mapping[str, Any]) -> None:
    """Raise a ValueError unless each value is None, True or False: `"no"` would count as yes."""
    for name, value in flags.items():
        if value is not None and value not in (True, False):
            raise ValueError(f"`{name}` must be True or False, got {value!r:.60}.")


def check_parts_of_call(
    image_generator: Any, scheduler: Any, callback: Any, ip_adapter_images: Collection[Any]
) -> None:
    """Raise a ValueError for a scheduler, a callback or images of an IP adapter that the generator would fail with.

    Args:
        ip_adapter_images (`Collection[Any]`): `ip_adapter_image` and `ip_adapter_image_embeds`.
    """
    if scheduler is not None and not isinstance(scheduler, SchedulerMixin):
        raise ValueError(f"`scheduler` must be a scheduler of diffusers, got {scheduler!r:.60}.")
    if callback is not None and not callable(callback) and not hasattr(callback, "tensor_inputs"):
        raise ValueError(f"`callback_on_step_end` must be callable, got {callback!r:.60}.")
    unet = getattr(image_generator, "unet", None)
    is_given = any(image is not None for image in ip_adapter_images)
    if is_given and unet is not None and getattr(unet, "encoder_hid_proj", None) is None:
        raise ValueError("`ip_adapter_image` needs an IP adapter; load one with `pipe.load_ip_adapter(...)`.")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class InputChecksMixin(ImageGeneratorMixin):
    """What a call of [`GillPipeline`] refuses before anything runs."""

    def check_inputs(
        self,
        *,
        batch_size: int,
        decision: str,
        read_back: bool,
        reference_argument: str | None,
        force_image: bool,
        output_type: str,
        num_images_per_prompt: int,
        height: int | None,
        width: int | None,
        guidance_scale: float | None,
        integers: dict[str, tuple[Any, int]],
        generator: Generators | None,
        negative_prompt: str | list[str] | None,
        callback_on_step_end_tensor_inputs: Sequence[str],
        latents: torch.Tensor | None,
        negative_prompt_embeds: torch.Tensor | None,
        image_generator_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Refuse arguments that cannot work and components that are missing, before anything runs.

        Args:
            integers (`dict[str, tuple[Any, int]]`): Value and smallest allowed value of arguments that are integers.

        Raises:
            ValueError: naming the argument, its value and what was expected, or the missing component.
        """
        if decision not in DECISIONS:
            raise ValueError(f"`decision` must be one of {DECISIONS}, got {decision!r}.")
        if decision not in ("auto", "generate") and self.model.config.retrieval_dim is None:
            raise ValueError(
                f"`decision={decision!r}` needs the retrieval heads of a model, and this one has none (its "
                "`retrieval_dim` is None); expected 'auto' or 'generate'."
            )
        if read_back and output_type == "latent":
            raise ValueError("`read_back=True` needs images, and `output_type='latent'` has none; expected 'pil'.")
        if (decision in ("retrieve", "both", "score") or reference_argument) and self.retrieval_set is None:
            problem = self.retrieval_set_problem or (
                "load one with `load_retrieval_set(...)`, or build one with `build_retrieval_set`"
            )
            needing = f"decision={decision!r}" if reference_argument is None else "reference_argument"
            raise ValueError(f"`{needing}` needs a retrieval set; {problem}.")
        if decision in ("generate", "both", "score") and not self.has_image_generator:
            raise ValueError(f"`decision={decision!r}` needs an image generator, and this pipeline has none.")
        if force_image and self.retrieval_set is None and not self.has_image_generator:
            raise ValueError("`force_image=True` needs a retrieval set or an image generator; this pipeline has none.")
        for name, (value, least) in integers.items():
            check_integer(name, value, least)
        if guidance_scale is not None:  # the default of some generators (Qwen-Image)
            check_number("guidance_scale", guidance_scale)
        multiple = size_multiple(self.image_generator, image_generator_kwargs or {}) if self.image_generator else 8
        for name, size in (("height", height), ("width", width)):
            if size is not None and (type(size) is not int or size < 1 or size % multiple):
                raise ValueError(f"`{name}` must be a positive multiple of {multiple}, got {size!r}.")
        if (height is None) != (width is None) and takes_sizes_together(self.image_generator):
            raise ValueError(
                f"{type(self.image_generator).__name__} takes `height` and `width` together, got a `height` of "
                f"{height} and a `width` of {width}; give both."
            )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"`output_type` must be 'pil', 'np', 'pt' or 'latent', got {output_type!r}.")
        if output_type == "latent" and decision != "generate":
            raise ValueError("`output_type='latent'` needs `decision='generate'`: a retrieved image has no latents.")
        check_generators(generator, batch_size, integers["max_images"][0])
        check_per_prompt("negative_prompt", negative_prompt, str, batch_size)
        known = getattr(self.image_generator, "_callback_tensor_inputs", self._callback_tensor_inputs)
        unknown = [name for name in callback_on_step_end_tensor_inputs if name not in known]
        if unknown:
            raise ValueError(f"`callback_on_step_end_tensor_inputs` must be among {known}, got {unknown}.")
        check_rows("latents", latents, batch_size * num_images_per_prompt)
        check_rows("negative_prompt_embeds", negative_prompt_embeds, batch_size)
        if decision != "retrieve" and self.has_image_generator:
            self._check_generator_components(output_type, guidance_scale, negative_prompt, negative_prompt_embeds)

    def _check_components(self, *names: str) -> None:
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"This call needs {', '.join(f'`{name}`' for name in missing)}, which the pipeline was made without; "
                f"set `pipe.{missing[0]}` or pass `{missing[0]}=` to `from_pretrained`."
            )


__all__ = [
    "InputChecksMixin",
    "check_flags",
    "check_generators",
    "check_integer",
    "check_names",
    "check_number",
    "check_parts_of_call",
    "check_per_prompt",
    "check_reference_argument",
    "check_rows",
]
