"""Rows of a batch sorted into groups of about the same length, so that little is padded."""

from collections.abc import Sequence

# What starting one more pass over a group costs, in padded tokens that it has to save to be worth it.
TOKENS_PER_GROUP = 48


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


__all__ = ["TOKENS_PER_GROUP", "length_groups"]
