"""Parts of a key-value cache: its first columns, and its rows moved to other columns."""

from collections.abc import Sequence

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer


def can_be_aligned(cache: Cache | None) -> bool:
    """Whether every layer of a cache keeps all tokens in a column each and grows by more."""
    return isinstance(cache, Cache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def take_columns(
    cache: Cache | None, rows: Sequence[int], starts: Sequence[int], length: int, num_rows: int
) -> Cache | None:
    """
    Let a cache hold other rows, each moved sideways. Padding on the left is all that such rows differ by, and positions
    are counted without it, so that keys and values stay what they are.

    Args:
        cache (`Cache`): A [`~transformers.DynamicCache`] is changed in place; a static one becomes dynamic.
        rows (`Sequence[int]`): The rows to keep, in their new order.
        starts (`Sequence[int]`):
            Column of each row that becomes its first one. What lies before column 0 is padding.
        length (`int`): Columns to keep.
        num_rows (`int`): Rows that the cache holds.

    Returns:
        The cache, or `None` where it does not keep every token in a column of its own (sliding windows, recurrent
        states) and would have to.
    """
    if cache is None or length <= 0:
        return None
    is_every_row = list(rows) == list(range(num_rows)) and not any(starts)
    layers = getattr(cache, "layers", ())
    # A static cache has no room for what nobody chooses.
    is_static = any(isinstance(layer, StaticLayer) for layer in layers)
    if is_every_row and length == int(cache.get_seq_length()) and not is_static:
        return cache
    if not layers or not all(type(layer) in (DynamicLayer, StaticLayer) for layer in layers):
        return None
    columns = (torch.arange(length) + torch.tensor(list(starts))[:, None]).clamp(min=0)
    kept = torch.tensor(list(rows))[:, None]
    taken = cache if can_be_aligned(cache) else DynamicCache()
    for number, layer in enumerate(layers):
        if layer.keys is None:
            continue
        moved = [
            states[:, :, :length]
            if is_every_row
            else states[kept.to(states.device), :, columns.to(states.device)].transpose(1, 2)
            for states in (layer.keys, layer.values)
        ]
        if taken is cache:
            layer.keys, layer.values = moved
        else:
            taken.update(*moved, number)
    return taken


def copy_first_columns(cache: Cache | None, rows: torch.Tensor, length: int) -> DynamicCache | None:
    """The first `length` tokens of some rows of a cache, or `None` where a layer does not keep all tokens."""
    layers = getattr(cache, "layers", None)
    if cache is None or not layers or int(cache.get_seq_length()) < length or length == 0:
        return None
    first = DynamicCache()
    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, StaticLayer):
            return None
        keys, values = (states[rows.to(states.device), :, :length] for states in (layer.keys, layer.values))
        first.update(keys, values, number)
    return first


__all__ = ["can_be_aligned", "copy_first_columns", "take_columns"]
