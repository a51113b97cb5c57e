"""A fingerprint of weights that survives a change of dtype and device, and nothing else.

A retrieval set is worth nothing with other weights than those that embedded it, but weights are stored in one dtype
and loaded in another, so their bytes cannot be hashed. A *sketch* can be compared instead: the weights' scalar
products with fixed vectors of random signs, divided by the weights' norm. Rounding to bfloat16 moves each by about
0.001, other weights by about 1, and a change of one per cent by about 0.01.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

_SKETCH_SIZE = 32
_TOLERANCE = 0.008
# Enough of each tensor to tell two encoders apart without reading gigabytes.
_VALUES_PER_TENSOR = 4096


def fingerprint_weights(parts: Mapping[str, Iterable[torch.Tensor]]) -> dict[str, Any]:
    """Sketch named groups of tensors.

    Args:
        parts (`Mapping[str, Iterable[torch.Tensor]]`): Groups to keep apart, e.g. `{"image_encoder": ...}`.

    Returns:
        `dict`: `digest`, eight hexadecimal digits a part, for people to read, and `sketch`, 32 numbers a part, for
        [`fingerprints_match`]. JSON can hold it.
    """
    sketches = {name: _sketch(tensors) for name, tensors in parts.items()}
    digests = []
    for sketch in sketches.values():
        rounded = bytes(max(0, min(255, round(value * 8) + 128)) for value in sketch)
        digests.append(hashlib.sha256(rounded).hexdigest()[:8])
    return {"digest": "-".join(digests), "sketch": sketches}


def fingerprints_match(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are those of the same weights, however rounded."""
    if not (first.get("sketch") and second.get("sketch")):
        return False
    return not differing_parts(first, second)


def differing_parts(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Names of the groups of weights that differ between two fingerprints."""
    one, other = first.get("sketch") or {}, second.get("sketch") or {}
    return [name for name in sorted({*one, *other}) if not _close(one.get(name), other.get(name))]


def fingerprint_name(fingerprint: Mapping[str, Any]) -> str:
    """What to call a fingerprint in a message."""
    return str(fingerprint.get("digest", "none"))


def _sketch(tensors: Iterable[torch.Tensor]) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(_SKETCH_SIZE, dtype=torch.float64)
    norm = torch.zeros((), dtype=torch.float64)
    for tensor in tensors:
        values = tensor.detach().flatten()
        # Evenly spread over the tensor, so that no part of it goes unseen.
        values = values[:: max(1, values.numel() // _VALUES_PER_TENSOR)].to("cpu", torch.float64)
        signs = torch.randint(0, 2, (_SKETCH_SIZE, values.numel()), generator=generator, dtype=torch.int8)
        total += (signs.to(torch.float64) * 2 - 1) @ values
        norm += values.square().sum()
    scale = norm.sqrt()
    return [round(value, 6) for value in (total / scale if scale > 0 else total).tolist()]


def _close(one: list[float] | None, other: list[float] | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return False
    return all(abs(a - b) <= _TOLERANCE for a, b in zip(one, other, strict=True))


__all__ = ["differing_parts", "fingerprint_name", "fingerprint_weights", "fingerprints_match"]
