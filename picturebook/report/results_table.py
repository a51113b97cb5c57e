"""Tables of metrics with 95 % bootstrap intervals, as Markdown and as JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation_gill.bootstrap import interval_of


@dataclass(frozen=True)
class Estimate:
    """A mean or another statistic over items, with its interval.

    Attributes:
        value, low, high: The statistic and its interval.
        factor: What these are multiplied by in text: 100 for shares, in percent.
    """

    value: float
    low: float
    high: float
    factor: float = 100.0

    def text(self) -> str:
        """`81.2 (78.0 to 84.4)`."""
        value, low, high = (self.factor * number for number in (self.value, self.low, self.high))
        return f"{value:.1f} ({low:.1f} to {high:.1f})"


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Key of the table in JSON.
        title: Heading.
        columns: Names of the metrics, in order.
        rows: For each system its metrics by column; a metric may be missing.
        note: Text below the table, such as what the items are.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Mapping[str, Mapping[str, Estimate]]
    note: str

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [
            f"### {self.title}",
            "",
            "| | " + " | ".join(self.columns) + " |",
            "|---" * (len(self.columns) + 1) + "|",
        ]
        for name, metrics in self.rows.items():
            cells = [metrics[column].text() if column in metrics else "" for column in self.columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self.note, ""])

    def as_json(self) -> dict[str, Any]:
        """Values from 0 to 1, `[value, low, high]` each."""
        return {
            "title": self.title,
            "note": self.note,
            "rows": {
                name: {column: [estimate.value, estimate.low, estimate.high] for column, estimate in metrics.items()}
                for name, metrics in self.rows.items()
            },
        }


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things in words: `1 story`, `40 stories`.

    Args:
        number: How many.
        noun: What one of them is called.
        plural: What several are called; by default `noun` with an "s".
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of `(items,)` values."""
    values = np.asarray(values, dtype=float)
    return statistic_of(len(values), lambda drawn: float(values[drawn].mean()))


def statistic_of(items: int, statistic: Callable[[np.ndarray], float]) -> Estimate:
    """A statistic of items given by their numbers."""
    value = statistic(np.arange(items))
    low, high = interval_of(items, statistic, 0) or (value, value)
    return Estimate(value, low, high)
