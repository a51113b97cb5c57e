"""Figures, and all that one must know to compare them: what every task writes to `results.json`."""

import dataclasses
import json
import os
import platform
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS_FILE = "results.json"
_FORMAT, _FORMAT_VERSION = "gill-results", 1


def software() -> dict[str, str]:
    """Versions of what has a say in the figures."""
    found = {"python": platform.python_version()}
    for package in ("gill", "torch", "transformers", "diffusers", "torchmetrics"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Figure:
    """A measured number: its mean over `examples`, and the 95 % bootstrap interval, `None` below two examples."""

    name: str
    value: float
    examples: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class LeftOut:
    """An example of the data that was not measured, and why."""

    example: str
    reason: str


@dataclass(frozen=True)
class Results:
    """What a task measured.

    Args:
        task (`str`): Such as `"vist generation"`.
        system (`dict`): What was measured: kind, name, revision or fingerprint, dtype.
        protocol (`dict`): Everything that has a say in the figures: data, split, context, candidates, masking, seeds,
            image sizes, metrics' models and their revisions.
        figures (`list[Figure]`)
        left_out (`list[LeftOut]`): Never silently.
        made_with (`dict[str, str]`): Versions of the software.
    """

    task: str
    system: dict[str, Any]
    protocol: dict[str, Any]
    figures: list[Figure]
    left_out: list[LeftOut] = field(default_factory=list)
    made_with: dict[str, str] = field(default_factory=software)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, whole or not at all."""
        content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **dataclasses.asdict(self)}
        write_whole(Path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Results":
        """Read what [`Results.write`] wrote; a folder stands for its `results.json`.

        Raises:
            OSError: there is no such file.
            ValueError: it is empty, truncated or something else; names it and what was expected.
        """
        place = Path(path) / RESULTS_FILE if Path(path).is_dir() else Path(path)
        text = place.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError(f"{place} is empty, expected the results of an evaluation.")
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{place} is not JSON, truncated perhaps: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{place} holds no results of an evaluation, expected 'format': {_FORMAT!r}.")
        if content.get("format_version") != _FORMAT_VERSION:
            found = content.get("format_version")
            raise ValueError(f"{place} has the format_version {found!r}, expected {_FORMAT_VERSION}.")
        try:
            figures = [Figure(**{**one, "interval": _pair(one.get("interval"))}) for one in content["figures"]]
            left_out = [LeftOut(**one) for one in content["left_out"]]
            named = {name: content[name] for name in ("task", "system", "protocol", "made_with")}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{place} lacks or misspells a field: {error}") from error
        if not figures:
            raise ValueError(f"{place} holds no figures.")
        return cls(figures=figures, left_out=left_out, **named)


def write_whole(place: Path, text: str) -> None:
    """Write a text file so that it is there complete or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=place.parent, prefix=f".{place.name}-", delete=False
    ) as file:
        beside = Path(file.name)
        try:
            file.write(text)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    beside.chmod(0o644)
    os.replace(beside, place)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


__all__ = ["RESULTS_FILE", "Figure", "LeftOut", "Results", "software", "write_whole"]
