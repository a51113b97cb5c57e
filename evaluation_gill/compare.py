"""Results side by side, with their intervals, and the paper's numbers where the protocol is the same."""

from collections.abc import Sequence
from typing import Any

from .arguments import CompareOptions
from .paper_figures import paper_figures
from .results import MetricValue, Results


def compare(options: CompareOptions) -> None:
    """The command `gill evaluate compare`: print the table.

    Raises:
        OSError, ValueError: results that cannot be read, or of different tasks.
    """
    print(table([Results.read(path) for path in options.results]))


def table(results: Sequence[Results]) -> str:
    """Markdown: a row for each metric, a column for each result and for the paper, then how the protocols differ.

    Raises:
        ValueError: results of different tasks.
    """
    tasks = sorted({item.task for item in results})
    if len(tasks) > 1:
        raise ValueError(f"Results of different tasks cannot be compared: {', '.join(tasks)}")
    names = list(dict.fromkeys(metric.name for item in results for metric in item.metrics))
    marks = [chr(ord("A") + number) for number in range(len(results))]
    rows = [
        ["", *(f"{mark}: {_title(item)}" for mark, item in zip(marks, results, strict=True)), "paper, same protocol"]
    ]
    for name in names:
        cells = [_cell(next((metric for metric in item.metrics if metric.name == name), None)) for item in results]
        papers = {(item.system, item.value): None for result in results for item in paper_figures(result, name)}
        rows.append([name, *cells, ", ".join(f"{system} {value:.3f}" for system, value in papers) or "-"])
    lines = [f"# {tasks[0]}", "", *_aligned(rows), ""]
    lines += _protocols(marks, results)
    for mark, item in zip(marks, results, strict=True):
        if item.left_out:
            lines.append(f"{mark} left out {len(item.left_out)} examples.")
    return "\n".join(lines)


def _title(results: Results) -> str:
    revision = results.system.get("revision") or results.system.get("weights")
    return f"{results.system['kind']} {results.system['name']}" + (f" @ {str(revision)[:8]}" if revision else "")


def _cell(metric: MetricValue | None) -> str:
    if metric is None:
        return "-"
    interval = "" if metric.interval is None else f" [{metric.interval[0]:.4f}, {metric.interval[1]:.4f}]"
    return f"{metric.value:.4f}{interval} n={metric.examples}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _protocols(marks: Sequence[str], results: Sequence[Results]) -> list[str]:
    flat = [_flat(item.protocol) for item in results]
    names = list(dict.fromkeys(name for item in flat for name in item))
    same = {name: flat[0].get(name) for name in names if all(item.get(name) == flat[0].get(name) for item in flat)}
    lines = ["Protocol: " + "; ".join(f"{name} {value}" for name, value in same.items() if value is not None)]
    for name in names:
        if name not in same:
            values = ", ".join(f"{mark} {item.get(name, 'not stated')}" for mark, item in zip(marks, flat, strict=True))
            lines.append(f"Not the same: {name}: {values}")
    return lines


def _flat(protocol: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in protocol.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


__all__ = ["compare", "table"]
