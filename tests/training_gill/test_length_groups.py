"""Rows in groups of about the same length."""

import random

from training_gill.padded_rows import length_groups


def padded(lengths, groups, overhead):
    return sum(len(group) * max(lengths[row] for row in group) + overhead for group in groups)


def test_every_row_is_in_one_group():
    lengths = random.Random(0).choices(range(3, 32), k=50)
    groups = length_groups(lengths)
    assert sorted(row for group in groups for row in group) == list(range(50))


def test_no_other_way_to_cut_the_sorted_rows_pads_less():
    lengths, overhead = [3, 9, 4, 9, 30, 5, 12], 6
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = min(
        padded(lengths, [g for g in _cut(order, cuts) if g], overhead) for cuts in range(2 ** (len(lengths) - 1))
    )
    assert padded(lengths, length_groups(lengths, overhead), overhead) == best


def test_few_rows_are_not_worth_a_group_of_their_own():
    assert len(length_groups([5, 6, 7, 8])) == 1
    assert length_groups([]) == []


def _cut(order, cuts):
    groups, group = [], []
    for place, row in enumerate(order):
        group.append(row)
        if cuts >> place & 1:
            groups.append(group)
            group = []
    return [*groups, group]
