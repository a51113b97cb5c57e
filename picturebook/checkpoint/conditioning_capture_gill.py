"""What an image generator makes of prompts, in the form of a model's conditioning, and handed back to the generator."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from .conditioning_gill import ConditioningTensor, mask_of_lengths

from .generator_call_gill import NEGATIVE, call_parameters, refusal
from .prompt_observation_gill import encode_negatives, encode_prompts


@torch.no_grad()
def capture_conditioning(
    generator: Any, prompts: Sequence[str], tensors: Iterable[ConditioningTensor], **call: Any
) -> dict[str, torch.Tensor]:
    """
    What a generator makes of prompts.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): With its text encoders.
        prompts (`Sequence[str]`): The prompts, encoded in one batch.
        tensors (`Iterable[ConditioningTensor]`): From
            [`~pipeline_gill.conditioning_derivation.derive_conditioning`].
        call: The arguments that were given to it.

    Returns:
        `dict[str, torch.Tensor]`: Each tensor by name, `(num_prompts, length, dim)` or `(num_prompts, dim)`, and its
        mask where it has one, a `torch.BoolTensor` of shape `(num_prompts, length)`. Masked positions that are not
        read are zero.

    Raises:
        ValueError: tensors of other shapes, or masks of other positions than the first.
    """
    if "guidance_scale" in call_parameters(generator):
        call = {"guidance_scale": 1.0, **call}  # nothing is encoded to guide against
    encoded = encode_prompts(generator, list(prompts), call)
    return normalise(generator, encoded, tuple(tensors), "")


@torch.no_grad()
def capture_negatives(
    generator: Any,
    tensors: Iterable[ConditioningTensor],
    negative_prompt: str | None = None,
    *,
    num_prompts: int = 1,
    **call: Any,
) -> dict[str, torch.Tensor]:
    """
    What a generator guides away from, by default what it makes of no negative prompt.

    Args:
        generator, tensors, call: As for [`capture_conditioning`].
        negative_prompt (`str`, *optional*): The text of a negative prompt.
        num_prompts (`int`, defaults to 1): How many prompts `call` is for, where it has an image for each.

    Returns:
        `dict[str, torch.Tensor]`: As from [`capture_conditioning`] for one prompt, with `negative_` before the names;
        empty for a generator that does not guide, or not with these arguments.
    """
    if negative_prompt is not None and "negative_prompt" not in call_parameters(generator):
        raise ValueError(f"{type(generator).__name__} takes no `negative_prompt`.")
    encoded, _ = encode_negatives(generator, negative_prompt, call, num_prompts)
    negatives = normalise(generator, encoded, tuple(tensors), NEGATIVE) if encoded else {}
    return {name: values[:1] for name, values in negatives.items()}


def check_negatives(negatives: Mapping[str, torch.Tensor], tensors: Iterable[ConditioningTensor]) -> None:
    """
    Raises:
        ValueError: what was captured for another generator, naming the tensor and both shapes.
    """
    for tensor in tensors:
        length = () if tensor.length is None else (tensor.length,)
        shapes = {tensor.name: (1, *length, tensor.dim)}
        if tensor.mask_key is not None:
            shapes[tensor.mask_key] = (1, *length)
        for name, expected in shapes.items():
            found = negatives.get(NEGATIVE + name)
            if found is None or found.shape != expected:
                raise ValueError(
                    f"The negative conditioning contradicts the configuration: `{NEGATIVE + name}` must have the shape "
                    f"{expected}, got {None if found is None else tuple(found.shape)}; capture it again."
                )


def generator_arguments(
    conditioning: Mapping[str, torch.Tensor], tensors: Iterable[ConditioningTensor]
) -> dict[str, Any]:
    """
    A conditioning, and negatives if it has any, as arguments of the generator's call.

    Args:
        conditioning (`Mapping[str, torch.Tensor]`):
            From the model, [`capture_conditioning`] or [`capture_negatives`].
        tensors (`Iterable[ConditioningTensor]`): The specification of its tensors.

    Returns:
        `dict[str, Any]`: Tensors of their own, which a generator may change.
    """
    arguments: dict[str, Any] = {}
    for prefix in ("", NEGATIVE):
        for tensor in tensors:
            values: Any = conditioning.get(prefix + tensor.name)
            if values is None:
                continue
            mask = None if tensor.mask_key is None else conditioning[prefix + tensor.mask_key]
            if mask is not None and tensor.layout in ("trimmed", "list"):
                lengths = mask.sum(1)
                longest = int(lengths.max())
                if tensor.layout == "list":
                    values = [row[:length].clone() for row, length in zip(values, lengths.tolist(), strict=True)]
                else:
                    values, mask = values[:, :longest], None if bool((lengths == longest).all()) else mask[:, :longest]
            arguments[prefix + tensor.name] = values if isinstance(values, list) else values.clone()
            if tensor.mask_name is not None:
                arguments[prefix + tensor.mask_name] = (
                    None if mask is None else mask.to(getattr(torch, tensor.mask_dtype))
                )
    return arguments


def normalise(
    generator: Any, encoded: Mapping[str, Any], tensors: tuple[ConditioningTensor, ...], prefix: str
) -> dict[str, torch.Tensor]:
    """Encoded prompts in the form of a model's conditioning: padded to the full length, masks of booleans."""
    conditioning: dict[str, torch.Tensor] = {}
    for tensor in tensors:
        name, length = prefix + tensor.name, tensor.length
        values = encoded.get(name)
        if values is None:
            raise refusal(generator, f"it makes no {name!r} of these prompts")
        rows = list(values)
        expected = (tensor.dim,) if length is None else (min(length, max(len(row) for row in rows)), tensor.dim)
        widest = max((tuple(row.shape) for row in rows), default=())
        if widest != expected or (tensor.layout == "padded" and widest[0] != (length or tensor.dim)):
            raise refusal(generator, f"its {name!r} has the shape {widest} for {(length, tensor.dim)}")
        if length is None or tensor.mask_key is None:
            conditioning[name] = torch.stack(rows)
            continue
        mask = mask_of_positions(None if tensor.mask_name is None else encoded.get(prefix + tensor.mask_name), values)
        counts = [len(row) for row in rows] if mask is None else mask.bool().sum(1).tolist()
        if not prefix and min(counts) < tensor.least_length:
            raise refusal(generator, f"its {name!r} is empty for a prompt, and is not for others")
        lengths = torch.tensor(counts, device=rows[0].device)
        valid = mask_of_lengths(lengths, length)
        if mask is not None and not torch.equal(mask.bool(), valid[:, : mask.shape[1]]):
            raise refusal(generator, f"the mask of its {name!r} is not of the first positions")
        padded = rows[0].new_zeros(len(rows), length, tensor.dim)
        for row, own, count in zip(padded, rows, counts, strict=True):
            kept = length if tensor.reads_padding else count
            row[:kept] = own[:kept]
        conditioning |= {name: padded, prefix + tensor.mask_key: valid}
    return conditioning


def mask_of_positions(mask: Any, values: Any) -> Any:
    """A mask with one value per position, also of a generator that has one per number (AuraFlow)."""
    if not isinstance(values, torch.Tensor) or not isinstance(mask, torch.Tensor) or mask.shape == values.shape[:2]:
        return mask
    if mask.numel() == values.numel():
        of_numbers = mask.reshape(values.shape)
        if torch.equal(of_numbers, of_numbers[..., :1].expand_as(of_numbers)):
            return of_numbers[..., 0]
    return mask


__all__ = [
    "capture_conditioning",
    "capture_negatives",
    "check_negatives",
    "generator_arguments",
    "mask_of_positions",
    "normalise",
]
