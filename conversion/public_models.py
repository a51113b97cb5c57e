"""Compares frozen models of a release with the public ones, so that the repository can name these instead.

Sources of the names: the image encoder is a CLIP vision model, autoencoder and UNet are those of diffusers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import AutoModelForCausalLM, PretrainedConfig

from pipeline_gill.frozen_models import FrozenModel, load_part, load_vision_model
from pipeline_gill.generator_parts import load_generator_part

from .dreamllm_files import same_values
from .original_files import ConversionError

_GENERATOR_PARTS: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}
# transformers 4 wrote this prefix before the names of a CLIP vision model, transformers 5 reads both.
_CLIP_PREFIX = "vision_model."
# Older versions stored the numbers of positions, which are 0, 1, 2, ...
_POSITIONS = "embeddings.position_ids"


@dataclass(frozen=True)
class Comparison:
    """
    A frozen model of a release beside the public one.

    Attributes:
        public (`Any`): The public model.
        tensors (`dict[str, torch.Tensor]`): Those of the release by the public model's names; empty if it has none.
        differing (`list[str]`): Names of tensors with other values.
    """

    public: Any
    tensors: dict[str, torch.Tensor]
    differing: list[str]


def compare_vision_model(
    tensors: Mapping[str, torch.Tensor], model: FrozenModel, config: PretrainedConfig
) -> Comparison:
    """
    Compare the image encoder.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Of the release; empty for one that did not save it.

    Raises:
        FrozenModelError: the public model cannot be loaded. ConversionError: it is another architecture.
    """
    public = load_vision_model(model, config)
    bare = {name.removeprefix(_CLIP_PREFIX): tensor for name, tensor in tensors.items()}
    own = {name.removeprefix(_CLIP_PREFIX): name for name in public.state_dict()}
    renamed = {own.get(name, name): tensor for name, tensor in bare.items() if name != _POSITIONS}
    return _compare(public, renamed, model)


def compare_generator_part(name: str, tensors: Mapping[str, torch.Tensor], model: FrozenModel) -> Comparison:
    """
    Compare the `"vae"` or the `"unet"`.

    Raises:
        FrozenModelError: the public model cannot be loaded. ConversionError: it is another architecture.
    """
    public = load_generator_part(_GENERATOR_PARTS[name].from_pretrained, model, name, use_safetensors=True)
    return _compare(public, dict(tensors), model)


def load_generator_config(name: str, model: FrozenModel) -> dict[str, Any]:
    """Settings of a part of the generator, without its weights.

    Raises:
        FrozenModelError: they cannot be loaded.
    """
    return load_generator_part(_GENERATOR_PARTS[name].load_config, model, name)


def compare_language_model(
    tensors: Mapping[str, torch.Tensor], model: FrozenModel, added_token_ids: list[int]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """
    Compare the language model of a release with a plain one, which may lack the last rows of embedding and head.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Of the release; not empty.
        added_token_ids (`list[int]`): Ids of the tokens that the plain model has no rows for.

    Returns:
        The rows of these tokens, of the embedding and of the head by the names of these, and the names of tensors that
        differ.

    Raises:
        FrozenModelError: the plain model cannot be loaded. ConversionError: it is another architecture.
    """
    public = load_part(AutoModelForCausalLM, model, "weights", dtype="auto")
    rows = public.get_input_embeddings().weight.shape[0]
    kept, added = {}, {}
    for name, tensor in tensors.items():
        if name in ("model.embed_tokens.weight", "lm_head.weight") and tensor.shape[0] >= rows:
            added[name] = tensor[added_token_ids]
            tensor = tensor[:rows]
        kept[name] = tensor
    return added, _compare(public, kept, model).differing


def _compare(public: Any, tensors: dict[str, torch.Tensor], model: FrozenModel) -> Comparison:
    expected = public.state_dict()
    if not tensors:
        return Comparison(public, {}, [])
    problems = [f"{name} is unknown" for name in tensors if name not in expected]
    problems += [f"{name} is missing" for name in expected if name not in tensors]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConversionError(
            f"The release's {model.role} is of another architecture than {model.name!r}: {'; '.join(problems[:3])}"
            f"{more}; {model.option} names another"
        )
    return Comparison(public, tensors, [name for name in expected if not same_values(tensors[name], expected[name])])


__all__ = [
    "Comparison",
    "compare_generator_part",
    "compare_language_model",
    "compare_vision_model",
    "load_generator_config",
]
