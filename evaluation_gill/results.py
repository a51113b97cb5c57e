"""Measured metrics and the protocol they were measured under: what every task writes to `results.json`."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gill
from modeling_gill.atomic_write_gill import replace_file
from modeling_gill.fingerprint_gill import library_versions
from pipeline_gill.caption_files import read_json

from .bootstrap import interval_of_mean

RESULTS_FILE = "results.json"
_FORMAT, _FORMAT_VERSION = "gill-results", 1


def software_versions() -> dict[str, str]:
    """Versions of the libraries that affect the metrics."""
    return {**library_versions("torch", "transformers", "diffusers", "torchmetrics"), "gill": gill.__version__}


@dataclass(frozen=True)
class MetricValue:
    """The mean of a metric over `examples`, and its 95 % bootstrap interval, `None` below two examples."""

    name: str
    value: float
    examples: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class LeftOut:
    """An example, or a candidate image, of the dataset that was not used, and why."""

    example: str
    reason: str


@dataclass(frozen=True)
class Results:
    """What a task measured.

    Args:
        task (`str`): Such as `"vist generation"`.
        system (`dict`): What was measured: kind, name, revision or fingerprint, dtype.
        protocol (`dict`):
            Everything that affects the metrics: data, split, context, candidates, masking, seeds, image sizes, the
            models that the metrics use and their revisions.
        metrics (`list[MetricValue]`): What was measured.
        left_out (`list[LeftOut]`): What was not.
        made_with (`dict[str, str]`): Versions of the software.

    Example:

    ```python
    >>> from evaluation_gill.results import MetricValue, Results

    >>> results = Results("vist retrieval", {"kind": "gill", "name": "org/gill"}, {}, [MetricValue("mrr", 0.4, 100)])
    >>> results.write("out/results.json")
    >>> Results.read("out").metrics[0].value
    0.4
    ```
    """

    task: str
    system: dict[str, Any]
    protocol: dict[str, Any]
    metrics: list[MetricValue]
    left_out: list[LeftOut] = field(default_factory=list)
    made_with: dict[str, str] = field(default_factory=software_versions)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON; a reader finds the whole file or the one before."""
        content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **dataclasses.asdict(self)}
        # The name in files since the first version of the format.
        content["figures"] = content.pop("metrics")
        write_text(Path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Results":
        """Read what [`Results.write`] wrote; a folder stands for its `results.json`.

        Raises:
            OSError: there is no such file.
            ValueError: it is empty, truncated or something else; names it and what was expected.
        """
        place = Path(path) / RESULTS_FILE if Path(path).is_dir() else Path(path)
        content = read_json(place)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{place} holds no results of an evaluation, expected 'format': {_FORMAT!r}.")
        if content.get("format_version") != _FORMAT_VERSION:
            found = content.get("format_version")
            raise ValueError(f"{place} has the format_version {found!r}, expected {_FORMAT_VERSION}.")
        try:
            metrics = [MetricValue(**{**item, "interval": _pair(item.get("interval"))}) for item in content["figures"]]
            left_out = [LeftOut(**item) for item in content["left_out"]]
            named = {name: content[name] for name in ("task", "system", "protocol", "made_with")}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place} lacks or misspells a field: {error}") from error
        if not metrics:
            raise ValueError(f"{place} holds no metrics.")
        return cls(metrics=metrics, left_out=left_out, **named)


def mean_metric(name: str, values: Sequence[float]) -> MetricValue:
    """The mean of one value for each example, with its interval."""
    return MetricValue(name, sum(values) / len(values), len(values), interval_of_mean(values))


def write_text(path: Path, text: str) -> None:
    """Write a text file, parents included, that replaces the one before in one step."""
    with replace_file(path) as new:
        new.write_text(text, encoding="utf-8")


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


__all__ = ["RESULTS_FILE", "LeftOut", "MetricValue", "Results", "mean_metric", "software_versions", "write_text"]
