"""Loads the metrics of `metrics/` with `evaluate`, from their folders."""

from pathlib import Path
from typing import Any

import evaluate

FOLDER = Path(__file__).parent / "metrics"
NAMES = tuple(sorted(path.name for path in FOLDER.iterdir() if (path / f"{path.name}.py").is_file()))


def load_metric(name: str) -> Any:
    """An `evaluate.Metric` of this folder.

    Raises:
        ValueError: there is none of that name, naming those there are.
    """
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r}; expected one of {', '.join(NAMES)}.")
    return evaluate.load(str(FOLDER / name))


__all__ = ["FOLDER", "NAMES", "load_metric"]
