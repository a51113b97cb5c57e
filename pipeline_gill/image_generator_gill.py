"""The image generator of a GILL pipeline: a diffusers pipeline that shares its components, and the state of a call."""

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from diffusers import DiffusionPipeline, SchedulerMixin, StableDiffusionPipeline

from .conditioning_capture_gill import NEGATIVE, call_parameters, copy_generator

# Methods of the generator that the pipeline offers as its own.
_GENERATOR_METHODS = frozenset(
    (
        "load_lora_weights",
        "unload_lora_weights",
        "fuse_lora",
        "unfuse_lora",
        "set_adapters",
        "get_active_adapters",
        "get_list_adapters",
        "delete_adapters",
        "enable_lora",
        "disable_lora",
        "save_lora_weights",
        "load_ip_adapter",
        "unload_ip_adapter",
        "set_ip_adapter_scale",
        "load_textual_inversion",
        "unload_textual_inversion",
        "enable_freeu",
        "disable_freeu",
        "fuse_qkv_projections",
        "unfuse_qkv_projections",
    )
)
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


class _GeneratorComponent:
    """A component that the image generator holds and that the pipeline reads and sets as its own."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, pipeline: Any, owner: type | None = None) -> Any:
        if pipeline is None:
            return self
        generator = _running_generator(pipeline)
        return getattr(pipeline._generator if generator is None else generator, self.name, None)

    def __set__(self, pipeline: Any, value: Any) -> None:
        generator = pipeline._generator
        if getattr(generator, self.name, None) is not value:
            if not hasattr(generator, self.name):
                raise AttributeError(f"{type(generator).__name__} has no component {self.name!r}.")
            # Some attributes of a pipeline follow from its components, `vae_scale_factor` for instance: they are set
            # anew, in place, so that whoever holds the generator sees the new component too.
            components = {**generator.components, self.name: value}
            type(generator).__init__(generator, **components, **generator.parameters)
            pipeline.register_modules(**{self.name: value})


class ImageGeneratorMixin:
    """What [`GillPipeline`] has in common with its image generator, any pipeline of diffusers that reads prompts."""

    vae = _GeneratorComponent()
    text_encoder = _GeneratorComponent()
    tokenizer = _GeneratorComponent()
    unet = _GeneratorComponent()
    scheduler = _GeneratorComponent()

    model: Any
    config: Any
    _generator: Any
    _is_whole_generator = False
    _offload_device: Any

    def _create_generator(self, image_generator: Any, components: dict[str, Any]) -> dict[str, Any]:
        """Take a whole generator, or make a [`StableDiffusionPipeline`] of components; return the components."""
        self._running_generators: list[Any] = []
        self._is_whole_generator = image_generator is not None
        if image_generator is None:
            image_generator = StableDiffusionPipeline(
                **components, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        elif any(component is not None for component in components.values()):
            raise ValueError(
                "`image_generator` is a whole pipeline; set its components on it, or give them without it."
            )
        self._generator = image_generator
        return {name: getattr(image_generator, name, None) for name in components}

    @property
    def image_generator(self) -> Any:
        """The image generator as a pipeline of its own; `None` for a model that only retrieves.

        It shares its components with this pipeline: setting a component, or loading LoRA or an IP-Adapter, on one of
        them changes both.
        """
        return self._generator if self._is_whole_generator or self._generator.unet is not None else None

    @property
    def _denoiser(self) -> Any:
        parts = (getattr(self._generator, name, None) for name in ("unet", "transformer", "prior", "prior_prior"))
        return next((part for part in parts if part is not None), None)

    @property
    def _denoiser_dtype(self) -> Any:
        denoiser = self._denoiser
        return self._generator.dtype if denoiser is None else denoiser.dtype

    @property
    def has_image_generator(self) -> bool:
        """Whether images can be generated."""
        return self.image_generator is not None and self.model.config.mapper_type is not None

    def __getattr__(self, name: str) -> Any:
        if name in _GENERATOR_METHODS and "_generator" in self.__dict__:
            if self.image_generator is None:
                raise AttributeError(f"`{name}` needs an image generator, and this pipeline has none.")
            return getattr(self._generator, name)
        return super().__getattr__(name)  # type: ignore[misc]

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

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move every component as [`DiffusionPipeline.to`] does, the image encoder of an IP-Adapter included."""
        super().to(*args, **kwargs)  # type: ignore[misc]
        if self._is_whole_generator or self._generator.image_encoder is not None:
            self._generator.to(*args, **{**kwargs, "silence_dtype_warnings": True})
        return self

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Keep on the accelerator only the component that runs, and the image encoder of an IP-Adapter.

        With a whole `image_generator`, its components are offloaded and the model stays where it is.
        """
        if self._is_whole_generator:
            self._generator.enable_model_cpu_offload(*args, **kwargs)
            return
        super().enable_model_cpu_offload(*args, **kwargs)  # type: ignore[misc]
        if self._generator.image_encoder is not None:
            self._generator.image_encoder.to(self._offload_device)

    def _check_generator(self) -> None:
        """Refuse a generator that cannot take what the model yields."""
        name, parameters = type(self._generator).__name__, call_parameters(self._generator)
        tensors = self.model.config.conditioning_tensors
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
        fields = getattr(self._denoiser, "config", {})
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

    def _arguments_of_generator(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Those of `kwargs` that are set, refused by name where the generator does not take them."""
        parameters = call_parameters(self._generator)
        given = {name: value for name, value in kwargs.items() if value is not None}
        if given.get("callback_on_step_end") is None:
            given.pop("callback_on_step_end_tensor_inputs", None)
        # Every pipeline has these defaults, but not every generator takes them.
        for name in ("guidance_scale", "num_inference_steps"):
            if name not in parameters:
                given.pop(name, None)
        unknown = [name for name in given if name not in parameters]
        if unknown:
            raise ValueError(f"{type(self._generator).__name__} takes no `{unknown[0]}`.")
        return given

    # --- the state of a call -----------------------------------------------------------------------------------------

    @property
    def guidance_scale(self) -> float | None:
        """Guidance scale of this thread's running or last call; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether this thread's running or last call uses guidance."""
        embeds_guidance = self.unet is not None and self.unet.config.get("time_cond_proj_dim") is not None
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
        # A scheduler counts its steps: of two calls that share one, each would take the steps of the other.
        generator = copy_generator(self._generator)
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
        return self._state(**kwargs)[0]


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
