"""The image generator's own text encoders: what the conditioning loss aims at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin

from modeling_gill.conditioning_gill import ConditioningTensor
from pipeline_gill.conditioning_capture_gill import capture_conditioning, capture_negatives
from pipeline_gill.conditioning_derivation import derive_conditioning
from pipeline_gill.generator_call_gill import CallFailedError, ImageDiffersError
from pipeline_gill.load_options_gill import DTYPE, TEXT_PREFIXES

from .training_data import DataError

# What diffusers' models call how deep they are.
_DEPTHS = (
    "layers_per_block",
    "transformer_layers_per_block",
    "num_layers",
    "num_single_layers",
    "num_refiner_layers",
    "num_mmdit_layers",
    "num_single_dit_layers",
    "n_layers",
    "n_refiner_layers",
)


class TargetEncoder:
    """
    An image generator that encodes captions as it does when it draws them.

    Args:
        name (`str`): A diffusers repository.
        revision (`str`, *optional*): Of it.
        device (`str`): To run on.
        dtype (`torch.dtype`, defaults to `torch.float32`): Of the generator.
        call (`Mapping[str, Any]`, defaults to none): Arguments of its call that matter to how it encodes, such as
            `max_sequence_length`.

    Attributes:
        tensors (`tuple[ConditioningTensor, ...]`): What it takes; without scales until they are measured.

    Raises:
        DataError: it cannot be loaded. ValueError: it cannot be conditioned by a model, with the reason.
    """

    def __init__(
        self,
        name: str,
        revision: str | None,
        device: str,
        dtype: torch.dtype = torch.float32,
        call: Mapping[str, Any] | None = None,
    ) -> None:
        self._call = dict(call or {})
        self._generator = _with_small_models(name, revision, dtype)
        if self._generator is not None:
            try:
                self.tensors = derive_conditioning(self._generator.to(device), **self._call)
            except (ImageDiffersError, CallFailedError):
                self._generator = None  # so may be only that of the small models
        if self._generator is None or self._reads_models():
            self._generator = load_generator(name, revision, dtype).to(device)
            self.tensors = derive_conditioning(self._generator, **self._call)

    def _reads_models(self) -> bool:
        """Whether it encodes text with a model that makes images, too, which then must not be a random one."""
        read: list[Any] = []
        models = [
            part
            for name, part in self._generator.components.items()
            if isinstance(part, ModelMixin) and not name.startswith(TEXT_PREFIXES)
        ]
        hooks = [
            module.register_forward_pre_hook(lambda *args: read.append(args[0]))
            for model in models
            for module in model.modules()
        ]
        capture_conditioning(self._generator, ["a red house"], self.tensors, **self._call)
        for hook in hooks:
            hook.remove()
        return bool(read)

    def __call__(self, captions: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """For each caption the arrays of [`target_columns`] by the names of tensors and masks, in float32."""
        captured = capture_conditioning(self._generator, list(captions), self.tensors, **self._call)
        arrays = {name: values.float().cpu().numpy() for name, values in captured.items()}
        found = [{name: values[number] for name, values in arrays.items()} for number in range(len(captions))]
        for tensor in self.tensors:
            if tensor.mask_key is not None and not tensor.reads_padding:
                for target in found:
                    target[tensor.name] = target[tensor.name][: int(target.pop(tensor.mask_key).sum())]
        return found

    def negatives(self) -> dict[str, torch.Tensor]:
        """What it guides away from where no negative prompt is given, by the names of its arguments."""
        return capture_negatives(self._generator, self.tensors, **self._call)


def load_generator(
    name: str,
    revision: str | None,
    dtype: torch.dtype = torch.float32,
    without_text: bool = False,
    components: Mapping[str, Any] | None = None,
) -> Any:
    """
    An image generator of any kind, on the CPU and without a progress bar.

    Args:
        name, revision: A diffusers repository.
        dtype (`torch.dtype`, defaults to `torch.float32`): Of its weights.
        without_text (`bool`, defaults to `False`): Load no text encoders and tokenizers.
        components (`Mapping[str, Any]`, *optional*): Some of its components, which are not loaded then.

    Raises:
        DataError: it cannot be loaded.
    """
    hub = {"revision": revision} if revision else {}
    try:
        parts = DiffusionPipeline.load_config(name, **hub)
        # Images of a training are not checked.
        no_checker = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in parts else {}
        absent = [part for part in parts if without_text and part.startswith(TEXT_PREFIXES)]
        given = {**dict.fromkeys(absent), **(components or {})}
        generator = DiffusionPipeline.from_pretrained(name, **{DTYPE: dtype}, **hub, **no_checker, **given)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise DataError(f"The image generator {name!r} could not be loaded: {error}") from error
    generator.set_progress_bar_config(disable=True)
    return generator


@torch.no_grad()
def _with_small_models(name: str, revision: str | None, dtype: torch.dtype) -> Any:
    """
    An image generator with its text encoders, and in place of the models that make images shallow random ones of the
    same classes and widths: they show as well that its images of a prompt and of its tensors are the same.

    Returns:
        The generator, or `None` if its models cannot be made shallow.

    Raises:
        DataError: it cannot be loaded.
    """
    hub = {"revision": revision} if revision else {}
    models: dict[str, Any] = {}
    try:
        entries = DiffusionPipeline.load_config(name, **hub)
        for part, entry in entries.items():
            of_diffusers = isinstance(entry, list) and entry[0] == "diffusers" and not part.startswith(TEXT_PREFIXES)
            model_class: Any = getattr(diffusers, entry[1], None) if of_diffusers else None
            if _is_model_class(model_class):
                config = model_class.load_config(name, subfolder=part, **hub)
                depths = {field: _shallow(config[field]) for field in _DEPTHS if config.get(field)}
                model = models[part] = model_class.from_config({**config, **depths}).eval()
                _cast(model, dtype)
                for weight in model.parameters():
                    # Some begin with zeros, so that nothing would depend on the prompt.
                    weight.add_(torch.randn_like(weight) * 0.02)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return None
    return load_generator(name, revision, dtype, components=models)


def _cast(model: ModelMixin, dtype: torch.dtype) -> None:
    """Set the dtype of a model as loading it does: some layers of some models stay in float32."""
    kept = {*(model._keep_in_fp32_modules or ())}
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_floating_point() and kept.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)


def _is_model_class(candidate: Any) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, ModelMixin)


def _shallow(depth: Any) -> Any:
    return [_shallow(value) for value in depth] if isinstance(depth, (list, tuple)) else 1


def with_measured_scales(
    tensors: Sequence[ConditioningTensor], targets: Sequence[Mapping[str, np.ndarray]]
) -> tuple[ConditioningTensor, ...]:
    """
    Tensors with the root mean square of some targets as their scale. One plain tensor has none, as in the paper.

    Args:
        tensors (`Sequence[ConditioningTensor]`): Without scales.
        targets (`Sequence[Mapping[str, np.ndarray]]`): Of some captions; a unit needs no more than a few.
    """
    if len(tensors) == 1 and tensors[0].is_plain:
        return tuple(tensors)
    measured = []
    for tensor in tensors:
        values = np.concatenate([target[tensor.name].ravel() for target in targets]).astype(np.float64)
        # Three digits, so that it is the same number on all machines; none of a tensor that is empty for all of them.
        scale = float(f"{np.sqrt(np.square(values).mean()):.3g}") if values.size else 0.0
        measured.append(replace(tensor, scale=scale or None))
    return tuple(measured)


__all__ = ["TargetEncoder", "load_generator", "with_measured_scales"]
