"""Random numbers that depend on a seed and on what they are for alone: the same in every process, worker and run."""

import hashlib
from collections.abc import Sequence

import numpy as np


def random_fraction(seed: int, indices: Sequence[int], which: str) -> float:
    """A number in [0, 1) that depends on the seed, the indices and the purpose `which` alone."""
    text = f"{seed} {which} {' '.join(map(str, indices))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def random_permutation(size: int, seed: int, indices: Sequence[int], which: str) -> np.ndarray:
    """
    The numbers below `size` in a random order, uint32.

    Example:

        >>> from training_gill.seeded_random import random_permutation
        >>> sorted(random_permutation(3, seed=0, indices=[0], which="order").tolist())
        [0, 1, 2]
    """
    order = np.arange(size, dtype=np.uint32)
    shuffle(order, seed, indices, which)
    return order


def shuffle(values: np.ndarray, seed: int, indices: Sequence[int], which: str) -> None:
    """Shuffle an array in its place."""
    # The one generator whose numbers numpy promises never to change.
    np.random.RandomState(int(random_fraction(seed, indices, which) * 2**32)).shuffle(values)


__all__ = ["random_fraction", "random_permutation", "shuffle"]
