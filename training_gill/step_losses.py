"""The losses of one training step, and what they are means over."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class LossWeights:
    """
    Weights of the losses; 0 leaves a loss and its cost out. In the paper, four are 1, and there is no reconstruction,
    which reads an image and asks for its own conditioning, without a caption; nor a denoising loss, DreamLLM's, which
    trains the conditioning by how well the image generator denoises images given it.
    """

    captioning: float = 1.0
    language: float = 1.0
    contrastive: float = 1.0
    conditioning: float = 1.0
    reconstruction: float = 0.0
    denoising: float = 0.0


@dataclass(frozen=True)
class BatchTotals:
    """What the losses are means over: counts of all processes and all accumulated batches of a step, never 0."""

    captioning_tokens: float
    language_tokens: float
    images: float


@dataclass
class Measured:
    """
    Adds up the losses of the groups of rows that a batch is run in.

    Attributes:
        sums: Each loss, summed over tokens or images, with its graph.
        details: `<loss>_count`, `<loss>_correct` and whatever else is reported, without a graph.
    """

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    details: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, loss: str, value: torch.Tensor, count: torch.Tensor, correct: torch.Tensor | None = None) -> None:
        """Add a group's sum of a loss, and how many tokens or images it is a sum over."""
        self.sums[loss] = value + self.sums[loss] if loss in self.sums else value
        for name, number in ((f"{loss}_count", count), (f"{loss}_correct", correct)):
            if number is not None:
                self.details[name] = number + self.details[name] if name in self.details else number

    def outputs(self, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a step returns: the `loss` with its graph, and without one `<loss>_sum` and the `details`."""
        return {"loss": loss, **self.details, **{f"{name}_sum": value.detach() for name, value in self.sums.items()}}


def weighted_total(
    weights: LossWeights, measured: Measured, totals: BatchTotals | None, device: torch.device
) -> torch.Tensor:
    """
    Sum of the losses with their weights, each divided by what it is a mean over.

    Args:
        weights (`LossWeights`): Of the losses.
        measured (`Measured`): Their sums.
        totals (`BatchTotals`, *optional*): By default the counts of `measured`.
        device (`torch.device`): Of the result.

    Returns:
        `torch.FloatTensor`, a scalar.
    """
    if totals is None:
        counts: dict[str, Any] = {name: measured.details[f"{name}_count"].clamp(min=1) for name in measured.sums}
    else:
        counts = dict.fromkeys(measured.sums, totals.images)
        counts |= {"captioning": totals.captioning_tokens, "language": totals.language_tokens}
    total = torch.zeros((), device=device)
    for name, value in measured.sums.items():
        weight = getattr(weights, name)
        if weight:
            total = total + (weight * value / counts[name]).to(device)
    return total


__all__ = ["BatchTotals", "LossWeights", "Measured", "weighted_total"]
