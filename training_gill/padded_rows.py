"""Rows of a batch, which are run in groups of about the same length."""

from collections.abc import Iterator, Sequence

import torch

from modeling_gill import GillConfig

# What starting one more pass over a group of rows costs, in padded tokens that it has to save to be worth it.
TOKENS_PER_GROUP = 48


class PaddedRows:
    """Rows padded on the right, with their lengths."""

    def __init__(self, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> None:
        self.ids, self.mask, self.labels = ids, mask, labels
        self.lengths: list[int] = mask.sum(1).tolist()

    def take(self, group: list[int]) -> "PaddedRows":
        longest = max(self.lengths[row] for row in group)
        return PaddedRows(self.ids[group, :longest], self.mask[group, :longest], self.labels[group, :longest])


def captioning_rows(input_ids: torch.Tensor, config: GillConfig) -> torch.Tensor:
    """Which rows are those of the captioning pass, bool `(batch_size,)`: the ones without `[IMG]`."""
    return ~(input_ids == config.image_output_token_ids[0]).any(1)


def length_groups(lengths: Sequence[int], overhead: int = TOKENS_PER_GROUP) -> list[list[int]]:
    """Split rows into groups so that the padded tokens, plus `overhead` a group, are as few as possible.

    Args:
        lengths (`Sequence[int]`): Tokens of each row.
        overhead (`int`): Tokens that a group costs beyond its own.

    Returns:
        `list[list[int]]`: Indices of the rows of each group, shorter groups first; every row is in one group.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    # Groups only ever end where the length changes.
    ends = [i + 1 for i in range(len(order)) if i + 1 == len(order) or lengths[order[i]] != lengths[order[i + 1]]]
    starts = [0, *ends]
    best: list[tuple[int, int]] = [(0, 0)]  # cost up to a boundary, and the boundary that its last group starts at
    for number, end in enumerate(ends, start=1):
        longest = lengths[order[end - 1]]
        best.append(
            min((best[first][0] + (end - starts[first]) * longest + overhead, first) for first in range(number))
        )
    groups = []
    boundary = len(ends)
    while boundary:
        first = best[boundary][1]
        groups.append(order[starts[first] : starts[boundary]])
        boundary = first
    return groups[::-1]


def groups_of_text(lengths: list[int], begins: list[int], count: int) -> Iterator[list[int]]:
    """Groups of rows whose captions are about as long; packed rows, which read on after `[IMG]`, apart."""
    for packed in (False, True):
        rows = [row for row in range(len(lengths)) if (lengths[row] - begins[row] > count) == packed]
        for group in length_groups([lengths[row] for row in rows]):
            yield [rows[number] for number in group]


__all__ = ["PaddedRows", "captioning_rows", "groups_of_text", "length_groups"]
