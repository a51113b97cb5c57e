"""What every stage of training has: a folder that is there when it is done, a figure, and a contact sheet."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..world.drawing import contact_sheet

_PAIRS_SHOWN = 20
SHEETS, FIGURES, CHECKPOINTS = "sheets", "figures", "checkpoints"


@dataclass(frozen=True)
class Place:
    """Where a training writes: `DIR/<stage>`, `DIR/figures/<stage>.json`, `DIR/sheets/<stage>.png`."""

    root: Path

    def folder(self, stage: str) -> Path:
        """What the stage makes."""
        return self.root / stage

    def checkpoints(self, stage: str) -> Path:
        """What the stage needs to go on."""
        return self.root / CHECKPOINTS / stage

    def done(self, stage: str) -> bool:
        """Whether the stage is done: its figures are written last."""
        return (self.root / FIGURES / f"{stage}.json").is_file()

    def write_folder(self, stage: str, write: Callable[[Path], Any]) -> None:
        """Let `write` fill a folder beside, then put it in place."""
        partial = self.root / f".{stage}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        shutil.rmtree(self.folder(stage), ignore_errors=True)
        partial.rename(self.folder(stage))

    def write_figures(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Write and print a stage's figures; with them it is done."""
        path = self.root / FIGURES / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        partial.rename(path)
        said = ", ".join(f"{name} {_said(value)}" for name, value in figures.items())
        print(f"{stage}: {said}", flush=True)

    def write_pairs_sheet(
        self, stage: str, truth: Sequence[np.ndarray] | np.ndarray, made: Sequence[np.ndarray] | np.ndarray
    ) -> None:
        """Write a contact sheet of what is right, and beside each image what the stage makes of it."""
        shown = zip(truth[:_PAIRS_SHOWN], made[:_PAIRS_SHOWN], strict=False)
        self.write_sheet(stage, [image for pair in shown for image in pair], 8)

    def write_sheet(self, stage: str, images: Sequence[np.ndarray], columns: int) -> None:
        """Write a contact sheet of uint8 images `(32, 32, 3)`."""
        (self.root / SHEETS).mkdir(parents=True, exist_ok=True)
        contact_sheet(list(images), columns).save(self.root / SHEETS / f"{stage}.png")


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_said(one)}" for name, one in value.items()) + ")"
    return str(value)
