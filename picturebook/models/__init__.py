"""Architectures, tokenizers and losses of the small models."""

from collections.abc import Iterator, Sequence
from typing import Any


def batches(items: Sequence[Any], size: int = 50) -> Iterator[Sequence[Any]]:
    """The items in their order, `size` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))
