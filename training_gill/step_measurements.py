"""What a run reports of its steps: means over all processes and all steps since the last report."""

import time
from typing import Any

import torch

_SUMMED = (
    "captioning_sum",
    "captioning_count",
    "captioning_correct",
    "language_sum",
    "language_count",
    "language_correct",
    "conditioning_sum",
    "conditioning_count",
    "reconstruction_sum",
    "reconstruction_count",
    "denoising_sum",
    "denoising_count",
)
# Every process knows these of the global batch already.
_SHARED = ("contrastive_sum", "contrastive_count")


class StepMeasurements:
    """Adds up what [`AdapterTrainingStep`] returns, on the device, and gives means."""

    def __init__(self) -> None:
        self._clear()

    def add(self, outputs: dict[str, torch.Tensor], examples: int) -> None:
        """Take one batch of this process."""
        for name, value in outputs.items():
            if name in _SUMMED or name in _SHARED:
                value = value.detach().float()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            elif name.endswith(("_top1", "_top5")):
                # Weighted by the pairs compared: the last batch may be smaller.
                value = value * outputs["contrastive_count"]
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._examples += examples

    def report(self, accelerator: Any) -> dict[str, float]:
        """Means since the last report; `examples_per_second` are those of all processes. Called by all of them."""
        device = accelerator.device
        own = torch.stack([self._sums.get(name, torch.zeros(())).to(device) for name in _SUMMED])
        own = torch.cat([own, torch.tensor([float(self._examples)], device=device)])
        summed = accelerator.reduce(own, reduction="sum").tolist()
        sums = dict(zip((*_SUMMED, "examples"), summed, strict=True))
        sums |= {name: float(value) for name, value in self._sums.items() if name not in _SUMMED}
        seconds = time.perf_counter() - self._since
        found: dict[str, float] = {}
        for name in ("captioning", "language", "contrastive", "conditioning", "reconstruction", "denoising"):
            if sums.get(f"{name}_count"):
                found[f"{name}_loss"] = sums[f"{name}_sum"] / sums[f"{name}_count"]
        for name in ("captioning", "language"):
            if sums.get(f"{name}_count"):
                found[f"{name}_accuracy"] = sums[f"{name}_correct"] / sums[f"{name}_count"]
        for name, value in sums.items():
            if name.endswith(("_top1", "_top5")) and sums.get("contrastive_count"):
                found[name] = value / sums["contrastive_count"]
        found["examples_per_second"] = sums["examples"] / max(seconds, 1e-9)
        self._clear()
        return found

    def _clear(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._examples = 0
        self._since = time.perf_counter()


__all__ = ["StepMeasurements"]
