"""The folder that a training run writes to: what each stage produces, its metrics and a contact sheet."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill.contact_sheet import contact_sheet

from ..world.drawing import image_rows

_NUM_PAIRS_SHOWN = 20


@dataclass(frozen=True)
class RunFolder:
    """Layout of a run: `DIR/<stage>`, `DIR/metrics/<stage>.json`, `DIR/sheets/<stage>.png`, `DIR/checkpoints/<stage>`.

    Args:
        root (`Path`): The folder of the run.
    """

    root: Path

    def folder(self, stage: str) -> Path:
        """Folder with what the stage produces."""
        return self.root / stage

    def checkpoints(self, stage: str) -> Path:
        """Folder with what the stage needs to resume, removed when it is done."""
        return self.root / "checkpoints" / stage

    def is_done(self, stage: str) -> bool:
        """Whether the stage is done: its metrics are written last."""
        return (self.root / "metrics" / f"{stage}.json").is_file()

    def write_metrics(self, stage: str, metrics: Mapping[str, Any]) -> None:
        """Write and print the metrics of a stage, which is then done."""
        with replace_file(self.root / "metrics" / f"{stage}.json") as path:
            path.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        print(f"{stage}: " + ", ".join(f"{name} {_formatted(value)}" for name, value in metrics.items()), flush=True)
        shutil.rmtree(self.checkpoints(stage), ignore_errors=True)

    def write_pairs_sheet(
        self, stage: str, expected: Sequence[np.ndarray] | np.ndarray, actual: Sequence[np.ndarray] | np.ndarray
    ) -> None:
        """Write a contact sheet of expected images, each with the actual one to its right."""
        shown = zip(expected[:_NUM_PAIRS_SHOWN], actual[:_NUM_PAIRS_SHOWN], strict=False)
        self.write_sheet(stage, [image for pair in shown for image in pair])

    def write_sheet(self, stage: str, images: Sequence[np.ndarray] | np.ndarray) -> None:
        """Write a contact sheet of uint8 images of shape `(32, 32, 3)`, eight to a row; none of no images."""
        if not len(images):
            return
        (self.root / "sheets").mkdir(parents=True, exist_ok=True)
        contact_sheet(image_rows(images, 8)).save(self.root / "sheets" / f"{stage}.png")


def _formatted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_formatted(item)}" for name, item in value.items()) + ")"
    return str(value)
