"""The image generator of a GILL pipeline, its place in memory, and the state of a call."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline
from PIL import Image

from .generator_call_gill import NEGATIVE, call_parameters, copy_generator
from .generator_loading_gill import replace_components

# What diffusers' denoisers call the width of their conditioning, the first that they have.
_WIDTHS = (
    "clip_text_in_channels",
    "caption_channels",
    "joint_attention_dim",
    "cap_feat_dim",
    "cross_attention_dim",
)
_POOLED_WIDTHS = ("clip_text_pooled_in_channels", "pooled_projection_dim")
# Per thread and pipeline, the state of the call that runs or ran last, which callbacks read and change.
_thread = threading.local()


class ImageGeneratorMixin:
    """What [`GillPipeline`] has in common with its image generator, any pipeline of diffusers that reads prompts.

    What a pipeline of diffusers has and this one has not is the image generator's: its components (`pipe.vae`,
    `pipe.scheduler = ...`) and its methods (`pipe.load_lora_weights`).
    """

    model: Any
    config: Any
    _running_generators: list[Any]

    def __getattr__(self, name: str) -> Any:
        generator = self.__dict__.get("image_generator")
        if generator is not None and not name.startswith("_"):
            running = _running_generator(self)
            owner = generator if running is None else running
            if hasattr(owner, name):
                return getattr(owner, name)
        elif generator is None and not name.startswith("_") and hasattr(StableDiffusionPipeline, name):
            raise AttributeError(f"`{name}` needs an image generator, and this pipeline has none.")
        return super().__getattr__(name)  # type: ignore[misc]

    def __setattr__(self, name: str, value: Any) -> None:
        generator = self.__dict__.get("image_generator")
        if name == "image_generator":
            _check_generator(self.__dict__.get("model"), value)
        is_own = name in self.__dict__ or name.startswith("_") or hasattr(type(self), name)
        if generator is None or is_own or name not in generator.components:
            super().__setattr__(name, value)
        elif getattr(generator, name) is not value:
            # Some attributes of a pipeline follow from its components, `vae_scale_factor` for instance: they are set
            # anew, in place, so that whoever holds the generator sees the new component too.
            before = generator.components[name]
            replace_components(generator, {name: value})
            try:
                _check_generator(self.model, generator)
            except ValueError:
                replace_components(generator, {name: before})
                raise

    @property
    def _denoiser(self) -> Any:
        return _denoiser_of(self.image_generator)

    @property
    def _denoiser_dtype(self) -> Any:
        denoiser = self._denoiser
        return self.image_generator.dtype if denoiser is None else denoiser.dtype

    @property
    def has_image_generator(self) -> bool:
        """Whether images can be generated."""
        return self.image_generator is not None and self.model.config.mapper_type is not None

    # --- memory and placement ----------------------------------------------------------------------------------------

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move the model and every component of the image generator as [`DiffusionPipeline.to`] does."""
        super().to(*args, **kwargs)  # type: ignore[misc]
        if self.image_generator is not None:
            self.image_generator.to(*args, **{**kwargs, "silence_dtype_warnings": True})
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Keep on the accelerator only what runs: the model, or one component of the image generator."""
        super().enable_model_cpu_offload(*args, **kwargs)  # type: ignore[misc]
        if self.image_generator is not None:
            self.image_generator.enable_model_cpu_offload(*args, **kwargs)

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Keep on the accelerator only the layer of the image generator that runs.

        The model stays there whole: some of its weights are read where no layer is called.
        """
        super().enable_sequential_cpu_offload(*args, **kwargs)  # type: ignore[misc]
        if self.image_generator is not None:
            self.image_generator.enable_sequential_cpu_offload(*args, **kwargs)
            _run_on_cpu(self.image_generator)

    def enable_group_offload(
        self, onload_device: Any, *args: Any, exclude_modules: str | list[str] | None = None, **kwargs: Any
    ) -> None:
        """Keep on the accelerator only the layers of the image generator that run, group by group.

        The model stays there whole, as in [`enable_sequential_cpu_offload`].

        Args:
            onload_device, args, kwargs: As in diffusers.
            exclude_modules (`str` or `list[str]`, *optional*): Components of the image generator that stay too.
        """
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or [])
        self.model.to(onload_device)
        if self.image_generator is not None:
            own = [name for name in excluded if name != "model"]
            self.image_generator.enable_group_offload(onload_device, *args, exclude_modules=own, **kwargs)

    def remove_all_hooks(self) -> None:
        """Remove the hooks of [`enable_model_cpu_offload`] and [`enable_sequential_cpu_offload`]."""
        super().remove_all_hooks()  # type: ignore[misc]
        if self.image_generator is not None:
            self.image_generator.remove_all_hooks()

    def reset_device_map(self) -> None:
        """Bring everything that a `device_map` placed back to the CPU."""
        super().reset_device_map()  # type: ignore[misc]
        if self.image_generator is not None:
            self.image_generator.reset_device_map()

    def set_attention_slice(self, slice_size: int | str | None) -> None:
        """Compute attention of the image generator in slices; see [`enable_attention_slicing`] of diffusers."""
        if self.image_generator is not None:
            self.image_generator.set_attention_slice(slice_size)

    def set_use_memory_efficient_attention_xformers(self, valid: bool, attention_op: Callable | None = None) -> None:
        """Whether the image generator computes attention by xformers."""
        if self.image_generator is not None:
            self.image_generator.set_use_memory_efficient_attention_xformers(valid, attention_op)

    def enable_vae_slicing(self) -> None:
        """Decode one image at a time, which saves memory."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode all images of a call at once again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Decode images in tiles, which saves memory for large ones."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Decode images whole again."""
        self.vae.disable_tiling()

    @property
    def _model_device(self) -> torch.device:
        hook = getattr(self.model, "_hf_hook", None)
        return self.model.device if hook is None else torch.device(hook.execution_device)

    def _onload_model(self) -> None:
        # Offloading moves a model when its `forward` is called; `generate` begins before that.
        hook = getattr(self.model, "_hf_hook", None)
        if hook is not None:
            hook.pre_forward(self.model)

    def _offload_model(self) -> None:
        # Its hook is the only one of this pipeline; diffusers would move it when its next component runs.
        for hook in getattr(self, "_all_hooks", ()):
            hook.offload()

    # --- arguments ---------------------------------------------------------------------------------------------------

    def _arguments_of_generator(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Those of `kwargs` that are set, refused by name where the generator does not take them."""
        parameters = call_parameters(self.image_generator)
        given = {name: value for name, value in kwargs.items() if value is not None}
        if given.get("callback_on_step_end") is None:
            given.pop("callback_on_step_end_tensor_inputs", None)
        # Every pipeline has these defaults, but not every generator takes them.
        for name in ("guidance_scale", "num_inference_steps"):
            if name not in parameters:
                given.pop(name, None)
        unknown = [name for name in given if name not in parameters]
        if unknown:
            raise ValueError(f"{type(self.image_generator).__name__} takes no `{unknown[0]}`.")
        return given

    # --- the state of a call -----------------------------------------------------------------------------------------

    @property
    def guidance_scale(self) -> float | None:
        """Guidance scale of this thread's running or last call; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether this thread's running or last call uses guidance."""
        embeds_guidance = getattr(self._denoiser, "config", {}).get("time_cond_proj_dim") is not None
        return (self._guidance_scale or 0) > 1 and not embeds_guidance

    @property
    def num_timesteps(self) -> int:
        """Number of denoising steps of this thread's running or last call; 0 before the first."""
        return self._state._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether this thread's running or last call was interrupted; a callback may set `_interrupt`."""
        return self._interrupt

    @property
    def _guidance_scale(self) -> float | None:
        return self._state._guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, guidance_scale: float | None) -> None:
        self._state._guidance_scale = guidance_scale

    @property
    def _interrupt(self) -> bool:
        return self._state._interrupt

    @_interrupt.setter
    def _interrupt(self, interrupt: bool) -> None:
        # A callback means its own call; a thread that runs none, such as the one of a stop button, means all calls.
        running = _running_generator(self)
        for generator in [running] if running is not None else list(self._running_generators):
            generator._interrupt = interrupt

    @property
    def _state(self) -> Any:
        """The generator that runs in this thread, or what it left of its state; the defaults before the first call."""
        return _states().setdefault(self, _left_over(self.config.guidance_scale))

    @contextmanager
    def _call_state(self, scheduler: SchedulerMixin | None, guidance_scale: float | None) -> Iterator[None]:
        """Give the call of this thread a copy of the generator, whose state and scheduler no other call shares."""
        if self.image_generator is None:
            _states()[self] = _left_over(guidance_scale)
            yield
            return
        # A scheduler counts its steps: of two calls that share one, each would take the steps of the other.
        generator = copy_generator(self.image_generator)
        if scheduler is not None:
            generator.scheduler = copy.deepcopy(scheduler)
        generator.set_progress_bar_config(**getattr(self, "_progress_bar_config", {}))
        generator._guidance_scale, generator._num_timesteps, generator._interrupt = guidance_scale, 0, False
        before = _running_generator(self)
        _states()[self] = generator
        self._running_generators.append(generator)
        try:
            yield
        finally:
            self._running_generators.remove(generator)
            left = _left_over(generator._guidance_scale, generator._num_timesteps, generator._interrupt)
            _states()[self] = left if before is None else before

    def _run_generator(self, callback_on_step_end: Callable[..., dict[str, Any]] | None = None, **kwargs: Any) -> Any:
        """The images of the generator; `kwargs` are its own arguments."""
        if callback_on_step_end is not None:

            def on_step_end(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
                return callback_on_step_end(self, step, timestep, tensors)

            kwargs["callback_on_step_end"] = on_step_end
        self._offload_model()
        images = self._state(**kwargs)[0]
        drawn, asked = _size_of(images), (kwargs.get("width"), kwargs.get("height"))
        if drawn is not None and any(_is_rounded(size, own) for size, own in zip(asked, drawn, strict=True)):
            raise ValueError(
                f"{type(self.image_generator).__name__} rounds sizes: it generated {drawn[0]} x {drawn[1]} pixels for "
                f"a `width` of {asked[0]} and a `height` of {asked[1]}; give sizes that it can generate."
            )
        return images


def _size_of(images: Any) -> tuple[int, int] | None:
    """Width and height of images; `None` of latents and the like."""
    if isinstance(images, list) and images and isinstance(images[0], Image.Image):
        return images[0].size
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) == 4 and isinstance(images, np.ndarray) and shape[3] == 3:
        return shape[2], shape[1]
    return (shape[3], shape[2]) if len(shape) == 4 and shape[1] == 3 else None


def _is_rounded(asked: int | None, drawn: int) -> bool:
    """Whether a size is another one near that which was asked for. What is far from it has another unit: latents of
    three channels, or the images of a decoder that the generator does not count with."""
    return asked is not None and drawn != asked and asked <= 2 * drawn and drawn <= 2 * asked


def _denoiser_of(generator: Any) -> Any:
    parts = (getattr(generator, name, None) for name in ("unet", "transformer", "prior", "prior_prior"))
    return next((part for part in parts if part is not None), None)


def _check_generator(model: Any, generator: Any) -> None:
    """Refuse a generator that cannot take what the model yields."""
    if model is None or generator is None or model.config.mapper_type is None:
        return
    name, parameters = type(generator).__name__, call_parameters(generator)
    tensors = model.config.conditioning_tensors
    yielded = {part for tensor in tensors for part in (tensor.name, tensor.mask_name) if part is not None}
    missing = sorted(yielded - {*parameters})
    # What a generator takes once for the prompt and once for a negative prompt, it needs; not so what it takes of
    # images (`ip_adapter_image_embeds`), nor prompts as text.
    needed = {
        part
        for part in parameters
        if NEGATIVE + part in parameters and "prompt" in part and ("embeds" in part or "mask" in part)
    }
    lacking = sorted(needed - yielded)
    if missing or lacking:
        raise ValueError(
            f"The configuration contradicts the image generator: `conditioning` has {sorted(yielded)}, and {name} "
            + (f"does not take {missing}." if missing else f"needs {lacking} too.")
        )
    fields = getattr(_denoiser_of(generator), "config", {})
    for tensor in tensors:
        pooled = "pooled" in tensor.name
        widths = [
            fields[field] for field in (_POOLED_WIDTHS if pooled else _WIDTHS) if isinstance(fields.get(field), int)
        ]
        if widths and tensor.dim != widths[0]:
            raise ValueError(
                f"The configuration contradicts the image generator: {name} reads `{tensor.name}` of width "
                f"{widths[0]}, and `conditioning` has {tensor.dim}."
            )


def _run_on_cpu(generator: Any) -> None:
    """Let layers run that accelerate offloads from the CPU to the CPU, as on a machine without an accelerator.

    diffusers numbers the device (`cpu:0`), and for torch, weights of the CPU are not there: moving a parameter to it
    gives a tensor that is no parameter, which accelerate cannot move back.
    """
    parts = [part for part in generator.components.values() if isinstance(part, torch.nn.Module)]
    for module in (module for part in parts for module in part.modules()):
        own = getattr(module, "_hf_hook", None)
        for hook in getattr(own, "hooks", (own,)):
            device = getattr(hook, "execution_device", None)
            if hook is not None and device is not None and torch.device(device).type == "cpu":
                hook.execution_device = torch.device("cpu")


def _states() -> WeakKeyDictionary:
    if not hasattr(_thread, "states"):
        _thread.states = WeakKeyDictionary()
    return _thread.states


def _running_generator(pipeline: Any) -> Any:
    state = _states().get(pipeline)
    return state if isinstance(state, DiffusionPipeline) else None


def _left_over(guidance_scale: float | None, num_timesteps: int = 0, interrupt: bool = False) -> SimpleNamespace:
    # Not the generator itself, which would keep components alive that have been replaced since.
    return SimpleNamespace(_guidance_scale=guidance_scale, _num_timesteps=num_timesteps, _interrupt=interrupt)


__all__ = ["ImageGeneratorMixin"]
