"""What an image generator is conditioned on: derived from its own call, and proved by its images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from modeling_gill.conditioning_gill import ConditioningTensor

from .conditioning_capture_gill import capture_conditioning, generator_arguments, mask_of_positions, normalise
from .generator_call_gill import (
    NEGATIVE,
    CallFailedError,
    ImageDiffersError,
    UnconditionableGenerator,
    call_parameters,
    copy_generator,
    refusal,
    size_multiple,
    without_negative_prompt,
)
from .prompt_observation_gill import A_PROMPT, encode_negatives, encode_prompts, one_at_a_time

_LONG, _WORDS = "a blue house on the left of two green trees", 1500
_SEED = 0


def derive_conditioning(generator: Any, **call: Any) -> tuple[ConditioningTensor, ...]:
    """
    What a generator is conditioned on. Its images of these tensors are proved to be those of the prompt.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): With its text encoders.
        call: Arguments of its call that matter to the conditioning (`max_sequence_length`), that it cannot be called
            without (`control_image`), or that make the proof cheaper (`height`, `width`).

    Raises:
        UnconditionableGenerator: a generator that cannot be conditioned exactly, naming it and the reason.

    Example:

    ```python
    >>> from diffusers import DiffusionPipeline
    >>> from pipeline_gill.conditioning_derivation import derive_conditioning

    >>> sana = DiffusionPipeline.from_pretrained("Efficient-Large-Model/Sana_600M_512px_diffusers")
    >>> [(tensor.name, tensor.length, tensor.dim) for tensor in derive_conditioning(sana)]
    [('prompt_embeds', 300, 2304)]
    ```
    """
    try:
        return _derive(generator, call)
    except UnconditionableGenerator:
        raise
    except Exception as error:  # whatever its own code raises
        takes_none = not any("embeds" in name for name in call_parameters(generator))
        reason = f"its call failed with {type(error).__name__}: {error}"
        refused = refusal(generator, "its call takes no tensors in place of a prompt" if takes_none else reason)
        raise CallFailedError(*refused.args) from error


def _derive(generator: Any, call: Mapping[str, Any]) -> tuple[ConditioningTensor, ...]:
    longest = " ".join([_LONG] * (_WORDS // len(_LONG.split())))
    encoded = encode_prompts(generator, [A_PROMPT, longest], call)
    alone = encode_prompts(generator, [A_PROMPT], call)
    positives = {name: values for name, values in encoded.items() if not name.startswith(NEGATIVE)}
    masks = [name for name in positives if "mask" in name]
    tensors = []
    for name, values in positives.items():
        if "mask" in name:
            continue
        is_list = isinstance(values, list)
        rows = values if is_list else list(values) if isinstance(values, torch.Tensor) else []
        are_tensors = bool(rows) and all(isinstance(row, torch.Tensor) for row in rows)
        if not are_tensors or rows[0].ndim not in (1, 2) or not rows[0].is_floating_point():
            raise refusal(generator, f"its {name!r} is not one vector or one sequence of vectors per prompt")
        length, dim = (None, rows[0].shape[0]) if rows[0].ndim == 1 else (len(rows[-1]), rows[0].shape[1])
        trimmed = length is not None and not is_list and len(alone[name][0]) < length
        # Masks are in the order of the tensors that they belong to.
        mask_name = masks.pop(0) if masks and length is not None and not is_list else None
        mask = mask_of_positions(encoded.get(mask_name) if mask_name else None, values)
        if mask_name and (mask is None or mask.shape != (2, length)):
            shape = None if mask is None else tuple(mask.shape)
            raise refusal(generator, f"its {mask_name!r} has the shape {shape} for {name!r} of {(2, length, dim)}")
        if trimmed and mask is None:
            raise refusal(generator, f"it pads {name!r} to the longest prompt of a batch and says not to where")
        tensors.append(
            ConditioningTensor(
                name,
                length,
                dim,
                mask_name=mask_name,
                mask_dtype="int64" if mask is None else str(mask.dtype).removeprefix("torch."),
                layout="list" if is_list else "trimmed" if trimmed else "padded",
                can_be_empty=mask is not None and not mask.bool().any(1).all(),
            )
        )
    if not tensors or masks:
        raise refusal(
            generator,
            f"of what it encodes, its call takes only {sorted(encoded)}"
            if encoded
            else "its call takes nothing of what it encodes",
        )
    return _prove(generator, tuple(tensors), call)


def _prove(
    generator: Any, tensors: tuple[ConditioningTensor, ...], call: Mapping[str, Any]
) -> tuple[ConditioningTensor, ...]:
    """Draw prompts and their tensors, in few steps: the latents must be the same.

    Returns:
        The tensors, with `reads_padding` where they are the same only if masked positions are kept.
    """
    small = _small_size(generator, call)
    if small:
        try:
            return _prove_at(generator, tensors, {**small, **call})
        except (RuntimeError, ValueError, IndexError):
            pass  # it does not draw as small as this, or is refused at its own size too
    return _prove_at(generator, tensors, call)


def _prove_at(
    generator: Any,
    tensors: tuple[ConditioningTensor, ...],
    call: Mapping[str, Any],
    prompts: Sequence[str] = (A_PROMPT, _LONG),
) -> tuple[ConditioningTensor, ...]:
    parameters = call_parameters(generator)
    steps: dict[str, Any] = dict.fromkeys({"num_inference_steps", "prior_num_inference_steps"} & {*parameters}, 2)
    options: dict[str, Any] = {**steps, "output_type": "latent", **call}
    of_negative, text = encode_negatives(generator, None, call)
    asked = {} if text is None else {"negative_prompt": [text] * len(prompts)}
    try:
        of_prompts = _latents(generator, {"prompt": list(prompts), **asked, **options})
    except Exception:  # whatever its own code raises
        if len(prompts) == 1:
            raise
        # Some draw one prompt in a call, or one for each image that they were given.
        return _prove_at(generator, tensors, call, prompts[-1:])
    read = tuple(
        replace(tensor, reads_padding=tensor.mask_name is not None and tensor.layout == "padded") for tensor in tensors
    )
    extended = tuple(
        replace(tensor, layout="extended" if tensor.layout == "trimmed" else tensor.layout) for tensor in tensors
    )
    problem: Exception | None = None
    for candidate in dict.fromkeys((tensors, read, extended)):
        try:
            conditioning = capture_conditioning(generator, prompts, candidate, **call)
            negatives = normalise(generator, of_negative, candidate, NEGATIVE) if of_negative else {}
            repeated = {name: values.expand(len(prompts), *values.shape[1:]) for name, values in negatives.items()}
            arguments = generator_arguments({**conditioning, **repeated}, candidate)
            of_tensors = _latents(generator, {**arguments, **without_negative_prompt(generator), **options})
        except UnconditionableGenerator as error:
            problem = problem or error
            continue
        except Exception as error:  # whatever its own code raises of this layout; another may do
            reason = f"its call, given what it makes of a prompt in its place, failed with {type(error).__name__}"
            problem = problem or CallFailedError(*refusal(generator, f"{reason}: {error}").args)
            continue
        difference = (of_prompts - of_tensors).abs().max() / of_prompts.abs().max()
        if difference <= 1e-4:
            return candidate
        reason = f"its image of the encoded prompt differs from that of the prompt by {difference:.2g}"
        if not isinstance(problem, ImageDiffersError):
            problem = ImageDiffersError(*refusal(generator, reason).args)
    assert problem is not None
    raise problem


def _small_size(generator: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call that draws a small image, where it says nothing of the size."""
    parameters = call_parameters(generator)
    if not {"height", "width"} <= {*parameters} or {"height", "width", "latents"} & {*call}:
        return {}
    exact = {"use_resolution_binning": False} if "use_resolution_binning" in parameters else {}
    # One position could be normalised to nothing.
    side = 4 * size_multiple(generator, {**exact, **call})
    return {"height": side, "width": side, **exact}


@torch.no_grad()
def _latents(generator: Any, arguments: dict[str, Any]) -> torch.Tensor:
    generator = copy_generator(generator)
    generator.set_progress_bar_config(disable=True)
    seeded = {} if "generator" in arguments else {"generator": torch.Generator().manual_seed(_SEED)}
    with one_at_a_time():
        return torch.as_tensor(generator(**arguments, **seeded)[0]).float()


__all__ = ["derive_conditioning"]
