"""What an image generator makes of prompts: observed while it runs, proved, and handed back to it.

No pipeline of diffusers is named here. A generator's own `__call__` encodes prompts with `encode_prompt` and takes the
results as arguments; the variables that it assigns them to have the names of those arguments. They are read there, not
by calling `encode_prompt`, because `__call__` has defaults of its own, such as an instruction before the prompt.
"""

import ast
import copy
import inspect
import math
import re
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from types import CodeType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from .conditioning_gill import ConditioningTensor, mask_of_lengths

NEGATIVE = "negative_"
_SHORT, _LONG, _WORDS = "a red house", "a blue house on the left of two green trees", 1500
_SEED = 0
# Arguments of pipelines whose output is a video or sound.
_OF_OTHER_MEDIA = ("num_frames", "audio_length_in_s", "audio_end_in_s", "num_waveforms_per_prompt")
# Python 3.11 fails when several threads parse at once (https://github.com/python/cpython/issues/106905).
_parsing = threading.Lock()
# One thread at a time encodes: the padding of a fast tokenizer is state of the tokenizer, and verbosity of the process.
_encoding = threading.RLock()


class UnconditionableGenerator(ValueError):
    """A generator that cannot be conditioned by a model; the message names it and the reason."""


class ImageDiffersError(UnconditionableGenerator):
    """The image of a generator's encoded prompt is not that of the prompt."""


class CallFailedError(UnconditionableGenerator):
    """A generator cannot be called with what it makes of a prompt, or not at all."""


class _EncodedError(Exception):
    """Ends a call of a generator once its prompts are encoded."""


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
    >>> from pipeline_gill.conditioning_capture_gill import derive_conditioning

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
        refusal = _refusal(generator, "its call takes no tensors in place of a prompt" if takes_none else reason)
        raise CallFailedError(*refusal.args) from error


def _derive(generator: Any, call: Mapping[str, Any]) -> tuple[ConditioningTensor, ...]:
    longest = " ".join([_LONG] * (_WORDS // len(_LONG.split())))
    encoded = _encode(generator, [_SHORT, longest], call)
    alone = _encode(generator, [_SHORT], call)
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
            raise _refusal(generator, f"its {name!r} is not one vector or one sequence of vectors per prompt")
        length, dim = (None, rows[0].shape[0]) if rows[0].ndim == 1 else (len(rows[-1]), rows[0].shape[1])
        trimmed = length is not None and not is_list and len(alone[name][0]) < length
        # Masks are in the order of the tensors that they belong to.
        mask_name = masks.pop(0) if masks and length is not None and not is_list else None
        mask = _mask_of_positions(encoded.get(mask_name) if mask_name else None, values)
        if mask_name and (mask is None or mask.shape != (2, length)):
            shape = None if mask is None else tuple(mask.shape)
            raise _refusal(generator, f"its {mask_name!r} has the shape {shape} for {name!r} of {(2, length, dim)}")
        if trimmed and mask is None:
            raise _refusal(generator, f"it pads {name!r} to the longest prompt of a batch and says not to where")
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
        raise _refusal(
            generator,
            f"of what it encodes, its call takes only {sorted(encoded)}"
            if encoded
            else "its call takes nothing of what it encodes",
        )
    return _prove(generator, tuple(tensors), call)


@torch.no_grad()
def capture_conditioning(
    generator: Any, prompts: Sequence[str], tensors: Iterable[ConditioningTensor], **call: Any
) -> dict[str, torch.Tensor]:
    """
    What a generator makes of prompts.

    Args:
        generator ([`~diffusers.DiffusionPipeline`]): With its text encoders.
        prompts (`Sequence[str]`): The prompts, encoded in one batch.
        tensors (`Iterable[ConditioningTensor]`): From [`derive_conditioning`].
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
    encoded = _encode(generator, list(prompts), call)
    return _normalise(generator, encoded, tuple(tensors), "")


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
    encoded, _ = _encode_negatives(generator, negative_prompt, call, num_prompts)
    negatives = _normalise(generator, encoded, tuple(tensors), NEGATIVE) if encoded else {}
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


@torch.no_grad()
def _encode(generator: Any, prompts: list[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """The encoded prompts by the name of the argument that takes them, as `encode_prompt` returned them."""
    generator = copy_generator(generator)
    parameters, encoded = call_parameters(generator), dict[str, Any]()
    if "prompt" not in parameters:
        raise _refusal(generator, "its call takes no `prompt`")
    others = [name for name in _OF_OTHER_MEDIA if name in parameters]
    if others:
        raise _refusal(generator, f"its call takes `{others[0]}`, so that what it generates is no image")
    pipelines = [generator, *(part for part in vars(generator).values() if isinstance(part, DiffusionPipeline))]
    if not any(hasattr(pipeline, "encode_prompt") for pipeline in pipelines):
        raise _refusal(generator, "it has no `encode_prompt`")
    for pipeline in pipelines:
        _observe(pipeline, encoded, parameters)
    try:
        with _quiet():
            generator(prompt=list(prompts), **call)
    except _EncodedError:
        pass
    finally:
        generator.maybe_free_model_hooks()
    return {name: value for name, value in encoded.items() if name in parameters and value is not None}


def _encode_negatives(
    generator: Any, negative_prompt: str | None, call: Mapping[str, Any], num_prompts: int = 1
) -> tuple[dict[str, Any], str | None]:
    """What a generator guides away from, if it does, and the negative prompt that it did so for."""
    # Some guide only if they get a negative prompt, be it empty.
    for text in (None, "") if negative_prompt is None else (negative_prompt,):
        if text is None or "negative_prompt" in call_parameters(generator):
            given = {} if text is None else {"negative_prompt": [text] * num_prompts}
            encoded = _encode(generator, [_SHORT] * num_prompts, {**call, **given})
            if any(name.startswith(NEGATIVE) for name in encoded):
                return encoded, text
    return {}, None


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread at a time, without warnings.

    They name every word of a prompt that is too long, and captions come in millions.
    """
    libraries = (diffusers_logging, transformers_logging)
    with _encoding:
        levels = [library.get_verbosity() for library in libraries]
        for library in libraries:
            library.set_verbosity_error()
        try:
            yield
        finally:
            for library, level in zip(libraries, levels, strict=True):
                library.set_verbosity(level)


def _observe(pipeline: Any, encoded: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Note what `encode_prompt` returns, and end the call at `prepare_latents`, or before the first step of a pipeline
    that has none (DeepFloyd IF).

    Args:
        encoded: Takes what is returned, by name.
        parameters: Those of the generator's call, whose names are preferred.
    """
    if not hasattr(pipeline, "encode_prompt"):
        return
    encode_prompt = pipeline.encode_prompt

    def observed(*args: Any, **kwargs: Any) -> Any:
        returned = encode_prompt(*args, **kwargs)
        caller = sys._getframe(1)
        with _parsing:
            assigned = _names_assigned_at(caller.f_code, caller.f_lineno)
            stood_for = _argument_stood_for_at(caller.f_code, caller.f_lineno)
            own = _names_returned_by(inspect.unwrap(getattr(encode_prompt, "__func__", encode_prompt)))
        values = returned if isinstance(returned, tuple) else (returned,)
        for place, (name, value) in enumerate(zip(assigned, values, strict=False)):
            # What it is assigned to, what `encode_prompt` itself calls it, or what is taken if it was given.
            names = (name, own[place] if len(own) == len(values) else "", stood_for if len(values) == 1 else "")
            encoded[next((one for one in names if one in parameters), name)] = value
        return returned

    def end(*args: Any, **kwargs: Any) -> None:
        raise _EncodedError

    vars(pipeline)["encode_prompt"] = observed
    vars(pipeline)["prepare_latents"] = vars(pipeline)["progress_bar"] = end


@lru_cache
def _names_assigned_at(code: CodeType, line: int) -> list[str]:
    """The variables that the statement at a line of a file assigns to, which is in the code of a function."""
    node = _assignment_at(_syntax_of(code), line - code.co_firstlineno + 1)
    if node is None:
        return []
    target = node.targets[0]
    return [ast.unparse(name) for name in (target.elts if isinstance(target, ast.Tuple) else [target])]


@lru_cache
def _argument_stood_for_at(code: CodeType, line: int) -> str:
    """The variable without which the statement at a line of a file runs: `x` in `if x is not None: ... else: ...`."""
    tree, found = _syntax_of(code), ""
    node = _assignment_at(tree, line - code.co_firstlineno + 1)
    # From the outside in: the last one is the nearest.
    for branch in ast.walk(tree):
        if isinstance(branch, ast.If) and node is not None and isinstance(branch.test, ast.Compare):
            test, is_not = branch.test, isinstance(branch.test.ops[0], ast.IsNot)
            without = branch.orelse if is_not else branch.body if isinstance(test.ops[0], ast.Is) else []
            of_none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
            if of_none and isinstance(test.left, ast.Name) and any(node in ast.walk(part) for part in without):
                found = test.left.id
    return found


@lru_cache
def _names_returned_by(function: Any) -> list[str]:
    """The variables that the last statement of a function returns; an empty name for anything else."""
    try:
        last = _syntax_of(function.__code__).body[0].body[-1]  # type: ignore[attr-defined]
    except (AttributeError, OSError, IndexError):  # no function of Python, or no source
        return []
    value = last.value if isinstance(last, ast.Return) else None
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    # `x if condition else None` is called `x`.
    values = [part.body if isinstance(part, ast.IfExp) else part for part in values]
    return [part.id if isinstance(part, ast.Name) else "" for part in values]


@lru_cache
def _syntax_of(code: CodeType) -> ast.Module:
    return ast.parse(textwrap.dedent("".join(inspect.getsourcelines(code)[0])))


def _assignment_at(tree: ast.Module, line: int) -> ast.Assign | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.lineno <= line <= (node.end_lineno or node.lineno):
            return node
    return None


def _normalise(
    generator: Any, encoded: Mapping[str, Any], tensors: tuple[ConditioningTensor, ...], prefix: str
) -> dict[str, torch.Tensor]:
    """Encoded prompts in the form of a model's conditioning: padded to the full length, masks of booleans."""
    conditioning: dict[str, torch.Tensor] = {}
    for tensor in tensors:
        name, length = prefix + tensor.name, tensor.length
        values = encoded.get(name)
        if values is None:
            raise _refusal(generator, f"it makes no {name!r} of these prompts")
        rows = list(values)
        expected = (tensor.dim,) if length is None else (min(length, max(len(row) for row in rows)), tensor.dim)
        widest = max((tuple(row.shape) for row in rows), default=())
        if widest != expected or (tensor.layout == "padded" and widest[0] != (length or tensor.dim)):
            raise _refusal(generator, f"its {name!r} has the shape {widest} for {(length, tensor.dim)}")
        if length is None or tensor.mask_key is None:
            conditioning[name] = torch.stack(rows)
            continue
        mask = _mask_of_positions(None if tensor.mask_name is None else encoded.get(prefix + tensor.mask_name), values)
        counts = [len(row) for row in rows] if mask is None else mask.bool().sum(1).tolist()
        if not prefix and min(counts) < tensor.least_length:
            raise _refusal(generator, f"its {name!r} is empty for a prompt, and is not for others")
        lengths = torch.tensor(counts, device=rows[0].device)
        valid = mask_of_lengths(lengths, length)
        if mask is not None and not torch.equal(mask.bool(), valid[:, : mask.shape[1]]):
            raise _refusal(generator, f"the mask of its {name!r} is not of the first positions")
        padded = rows[0].new_zeros(len(rows), length, tensor.dim)
        for row, own, count in zip(padded, rows, counts, strict=True):
            kept = length if tensor.reads_padding else count
            row[:kept] = own[:kept]
        conditioning |= {name: padded, prefix + tensor.mask_key: valid}
    return conditioning


def _mask_of_positions(mask: Any, values: Any) -> Any:
    """A mask with one value per position, also of a generator that has one per number (AuraFlow)."""
    if not isinstance(values, torch.Tensor) or not isinstance(mask, torch.Tensor) or mask.shape == values.shape[:2]:
        return mask
    if mask.numel() == values.numel():
        of_numbers = mask.reshape(values.shape)
        if torch.equal(of_numbers, of_numbers[..., :1].expand_as(of_numbers)):
            return of_numbers[..., 0]
    return mask


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


def _small_size(generator: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call that draws a small image, where it says nothing of the size."""
    parameters = call_parameters(generator)
    if not {"height", "width"} <= {*parameters} or {"height", "width", "latents"} & {*call}:
        return {}
    exact = {"use_resolution_binning": False} if "use_resolution_binning" in parameters else {}
    # One position could be normalised to nothing.
    side = 4 * size_multiple(generator, {**exact, **call})
    return {"height": side, "width": side, **exact}


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
    prompts: Sequence[str] = (_SHORT, _LONG),
) -> tuple[ConditioningTensor, ...]:
    parameters = call_parameters(generator)
    steps: dict[str, Any] = dict.fromkeys({"num_inference_steps", "prior_num_inference_steps"} & {*parameters}, 2)
    options: dict[str, Any] = {**steps, "output_type": "latent", **call}
    of_negative, text = _encode_negatives(generator, None, call)
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
            negatives = _normalise(generator, of_negative, candidate, NEGATIVE) if of_negative else {}
            repeated = {name: values.expand(len(prompts), *values.shape[1:]) for name, values in negatives.items()}
            arguments = generator_arguments({**conditioning, **repeated}, candidate)
            of_tensors = _latents(generator, {**arguments, **without_negative_prompt(generator), **options})
        except UnconditionableGenerator as error:
            problem = problem or error
            continue
        except Exception as error:  # whatever its own code raises of this layout; another may do
            reason = f"its call, given what it makes of a prompt in its place, failed with {type(error).__name__}"
            problem = problem or CallFailedError(*_refusal(generator, f"{reason}: {error}").args)
            continue
        difference = (of_prompts - of_tensors).abs().max() / of_prompts.abs().max()
        if difference <= 1e-4:
            return candidate
        reason = f"its image of the encoded prompt differs from that of the prompt by {difference:.2g}"
        if not isinstance(problem, ImageDiffersError):
            problem = ImageDiffersError(*_refusal(generator, reason).args)
    assert problem is not None
    raise problem


@torch.no_grad()
def _latents(generator: Any, arguments: dict[str, Any]) -> torch.Tensor:
    generator = copy_generator(generator)
    generator.set_progress_bar_config(disable=True)
    seeded = {} if "generator" in arguments else {"generator": torch.Generator().manual_seed(_SEED)}
    with _quiet():
        return torch.as_tensor(generator(**arguments, **seeded)[0]).float()


def _refusal(generator: Any, reason: str) -> UnconditionableGenerator:
    return UnconditionableGenerator(f"{type(generator).__name__} cannot be conditioned by a model: {reason}.")


__all__ = [
    "NEGATIVE",
    "CallFailedError",
    "ImageDiffersError",
    "UnconditionableGenerator",
    "call_parameters",
    "capture_conditioning",
    "capture_negatives",
    "check_negatives",
    "copy_generator",
    "derive_conditioning",
    "generator_arguments",
    "size_multiple",
    "without_negative_prompt",
]
