"""The order of the examples, from the seed and the epoch alone."""

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


class SeededOrder(Sampler):
    """
    A permutation of all examples that depends on `seed` and `epoch`, and on nothing that happened before.

    Args:
        data (`Sized`): What is permuted.
        seed (`int`): Of the run.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self.size, self.seed, self.epoch = len(data), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())

    def __len__(self) -> int:
        return self.size


class TellEpoch(TrainerCallback):
    """Tells a [`SeededOrder`] its epoch: accelerate's loaders lose their way to it when a run resumes."""

    def __init__(self, order: SeededOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.order.set_epoch(int((state.epoch or 0) + 1e-6))


__all__ = ["SeededOrder", "TellEpoch"]
