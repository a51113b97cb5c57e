"""The conditioning of known image generators, as their configurations tell it: for estimates before `gill precompute`,
which derives the conditioning of any generator from what its text encoders really make, and proves it."""

import inspect
from dataclasses import dataclass
from typing import Any

from transformers.utils import cached_file

from modeling_gill.conditioning_gill import ConditioningTensor

from .caption_files import read_json
from .frozen_models import FrozenModel, FrozenModelError, not_found

# Folder of a component, and a field of its configuration.
_Field = tuple[str, str]
_CLIP_POSITIONS = ("text_encoder", "max_position_embeddings")


@dataclass(frozen=True)
class _Text:
    """Where a pipeline's configurations give the sizes of `prompt_embeds` and `pooled_prompt_embeds`.

    Attributes:
        dim: Width of `prompt_embeds`.
        clip_tokens: Positions of a CLIP text encoder, as a field or a number.
        sequence: Whether the default of the argument `max_sequence_length` is added to these.
        pooled: Width of `pooled_prompt_embeds`.
        has_mask: Whether `prompt_attention_mask` goes with them.
    """

    dim: _Field
    clip_tokens: _Field | int = 0
    sequence: bool = False
    pooled: _Field | None = None
    has_mask: bool = False


_STABLE_DIFFUSION = _Text(("unet", "cross_attention_dim"), _CLIP_POSITIONS)
_CAPTIONS = _Text(("transformer", "caption_channels"), sequence=True, has_mask=True)
_KNOWN = {
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "LatentConsistencyModelPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": _Text(
        ("unet", "cross_attention_dim"), _CLIP_POSITIONS, pooled=("text_encoder_2", "projection_dim")
    ),
    # The positions of its CLIP encoders are a constant of the pipeline.
    "StableDiffusion3Pipeline": _Text(
        ("transformer", "joint_attention_dim"), 77, sequence=True, pooled=("transformer", "pooled_projection_dim")
    ),
    "FluxPipeline": _Text(
        ("transformer", "joint_attention_dim"), sequence=True, pooled=("transformer", "pooled_projection_dim")
    ),
    "SanaPipeline": _CAPTIONS,
    "SanaSprintPipeline": _CAPTIONS,
    "PixArtAlphaPipeline": _CAPTIONS,
    "PixArtSigmaPipeline": _CAPTIONS,
}


def conditioning_of_configs(model: FrozenModel, length: int | None = None) -> tuple[ConditioningTensor, ...]:
    """
    The conditioning of an image generator, without its weights.

    Args:
        model (`FrozenModel`): A diffusers repository; only its configurations are read.
        length (`int`, *optional*):
            Positions of the tensors that have several, for a model that has a number of its own (DreamLLM). By default
            as many as the generator's text encoders give, whose configurations are then read.

    Returns:
        `tuple[ConditioningTensor, ...]`: Without scales, which are measured.

    Raises:
        FrozenModelError: it cannot be found, or is of a class that is not known here.
    """
    name = _read(model, "model_index.json", "_class_name")
    if name not in _KNOWN:
        raise FrozenModelError(
            f"The conditioning of the {model}, a {name}, cannot be told from its configurations; expected one of "
            f"{', '.join(_KNOWN)}, or a cache of `gill precompute`, which can."
        )
    text = _KNOWN[name]
    if length is None:
        length = text.clip_tokens if isinstance(text.clip_tokens, int) else _size(model, text.clip_tokens)
        if text.sequence:
            length += _default_length(name)
    mask_name = "prompt_attention_mask" if text.has_mask else None
    tensors = [ConditioningTensor("prompt_embeds", length, _size(model, text.dim), mask_name)]
    if text.pooled is not None:
        tensors.append(ConditioningTensor("pooled_prompt_embeds", None, _size(model, text.pooled)))
    return tuple(tensors)


def _default_length(pipeline_class: str) -> int:
    import diffusers

    call = getattr(diffusers, pipeline_class).__call__
    return inspect.signature(call).parameters["max_sequence_length"].default


def _size(model: FrozenModel, field: _Field) -> int:
    value = _read(model, f"{field[0]}/config.json", field[1])
    if type(value) is not int:
        raise FrozenModelError(f"The {model} has {field[1]} {value!r} in {field[0]}/config.json; expected one number.")
    return value


def _read(model: FrozenModel, file: str, key: str) -> Any:
    try:
        path = cached_file(model.name, file, revision=model.revision or "main")
        return read_json(str(path)).get(key)
    except (OSError, ValueError, AttributeError) as error:
        raise not_found(model, file, error) from error


__all__ = ["conditioning_of_configs"]
