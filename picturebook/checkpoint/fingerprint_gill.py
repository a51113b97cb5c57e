"""What a file was made with: fingerprints of weights that do not depend on dtype and device, versions of libraries.

A retrieval set can only be searched with the weights that embedded it. Since weights are stored in one dtype and
loaded in another, their bytes cannot be hashed. A *sketch* is compared instead: the scalar products of the weights
with fixed vectors of random signs, divided by the norm of the weights. Rounding to bfloat16 changes each by about
0.001, a change of the weights by one per cent by about 0.01, and other weights by about 1.
"""

import contextlib
import hashlib
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_SKETCH_SIZE = 32
_TOLERANCE = 0.008
# Enough of each tensor to distinguish two encoders without reading gigabytes.
_VALUES_PER_TENSOR = 4096


# The largest relative change of a weight that is stored in bfloat16 in between.
_ROUNDING = 2**-8


class WeightSample(NamedTuple):
    """A few values of a weight, and how many it has."""

    values: torch.Tensor
    numel: int


def sample_weights(module: nn.Module) -> dict[str, WeightSample]:
    """A few values of each weight by its name, for [`find_changed_weight`]. Weights that are not in memory as a whole
    (offloaded, sharded) are left out."""
    return {
        _plain_name(name): WeightSample(_sample(weight).to("cpu", copy=True), weight.numel())
        for name, weight in module.named_parameters()
        if not weight.is_meta and not hasattr(weight, "full_tensor") and weight.numel()
    }


def find_changed_weight(module: nn.Module, samples: Mapping[str, WeightSample]) -> str | None:
    """Name of a weight that is to be trained, or whose values are no longer those of a sample up to rounding; LoRA
    weights are not asked."""
    for name, weight in module.named_parameters():
        if "lora_" in name:
            continue
        if weight.requires_grad:
            return name
        sample = samples.get(_plain_name(name))
        # A weight that has become smaller is a shard of itself (FSDP, DeepSpeed).
        if sample is None or weight.is_meta or hasattr(weight, "full_tensor") or weight.numel() < sample.numel:
            continue
        before, now = (values.to("cpu", torch.float32) for values in (sample.values, _sample(weight)))
        if before.shape != now.shape or not torch.allclose(now, before, rtol=_ROUNDING, atol=1e-6, equal_nan=True):
            return name
    return None


def _sample(weight: torch.Tensor) -> torch.Tensor:
    if is_traceable_wrapper_subclass(weight):  # a quantized weight, which has no views: the tensors that it is made of
        names, _ = weight.__tensor_flatten__()
        return torch.cat([_sample(getattr(weight, name)).float() for name in names])
    return weight.detach().flatten()[:: max(1, weight.numel() // 16)]


def _plain_name(name: str) -> str:
    return name.replace(".base_layer.", ".")  # of peft


def library_versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed, by name."""
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


def fingerprint_weights(parts: Mapping[str, Iterable[torch.Tensor]]) -> dict[str, Any]:
    """Sketch named groups of tensors.

    Args:
        parts (`Mapping[str, Iterable[torch.Tensor]]`): Tensors by group, e.g. `{"image_encoder": ...}`.

    Returns:
        `dict` that JSON can hold: `digest`, eight hexadecimal digits per group for messages, and `sketch`, 32 numbers
        per group for [`fingerprints_match`].
    """
    sketches = {name: _sketch(tensors) for name, tensors in parts.items()}
    digests = []
    for sketch in sketches.values():
        rounded = bytes(max(0, min(255, round(value * 8) + 128)) for value in sketch)
        digests.append(hashlib.sha256(rounded).hexdigest()[:8])
    return {"digest": "-".join(digests), "sketch": sketches}


def fingerprints_match(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same weights, up to rounding."""
    if not (first.get("sketch") and second.get("sketch")):
        return False
    return not differing_parts(first, second)


def differing_parts(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the groups of weights that differ between two fingerprints."""
    sketches = [fingerprint.get("sketch") or {} for fingerprint in (first, second)]
    names = sorted({name for sketch in sketches for name in sketch})
    return [name for name in names if not _close(*(sketch.get(name) for sketch in sketches))]


def fingerprint_name(fingerprint: Mapping[str, Any]) -> str:
    """Name of a fingerprint in messages."""
    return str(fingerprint.get("digest", "none"))


def _sketch(tensors: Iterable[torch.Tensor]) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(_SKETCH_SIZE, dtype=torch.float64)
    norm = torch.zeros((), dtype=torch.float64)
    for tensor in tensors:
        values = tensor.detach().flatten()
        # Spread evenly over the tensor.
        values = values[:: max(1, values.numel() // _VALUES_PER_TENSOR)].to("cpu", torch.float64)
        signs = torch.randint(0, 2, (_SKETCH_SIZE, values.numel()), generator=generator, dtype=torch.int8)
        total += (signs.to(torch.float64) * 2 - 1) @ values
        norm += values.square().sum()
    scale = norm.sqrt()
    return [round(value, 6) for value in (total / scale if scale > 0 else total).tolist()]


def _close(first: list[float] | None, second: list[float] | None) -> bool:
    if first is None or second is None or len(first) != len(second):
        return False
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(first, second, strict=True))


__all__ = [
    "WeightSample",
    "differing_parts",
    "find_changed_weight",
    "fingerprint_name",
    "fingerprint_weights",
    "fingerprints_match",
    "library_versions",
    "sample_weights",
]
