"""Results side by side, with their intervals, and the paper's figures where the protocol is the same.

python -m evaluation_gill.compare A/results.json B/results.json
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from .paper_figures import paper_figures
from .results import Figure, Results


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; what a user did wrong ends in one line on stderr and the exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m evaluation_gill.compare", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", help="results.json, or the folder that it lies in")
    options = parser.parse_args(arguments)
    try:
        print(table([Results.read(path) for path in options.results]))
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def table(every: Sequence[Results]) -> str:
    """Markdown: a row for each figure, a column for each result and for the paper, then how the protocols differ.

    Raises:
        ValueError: results of different tasks.
    """
    tasks = sorted({one.task for one in every})
    if len(tasks) > 1:
        raise ValueError(f"results of different tasks do not compare: {', '.join(tasks)}")
    names = list(dict.fromkeys(figure.name for one in every for figure in one.figures))
    marks = [chr(ord("A") + number) for number in range(len(every))]
    rows = [["", *(f"{mark}: {_called(one)}" for mark, one in zip(marks, every, strict=True)), "paper, same protocol"]]
    for name in names:
        cells = [_cell(next((figure for figure in one.figures if figure.name == name), None)) for one in every]
        papers = {(one.system, one.value): None for result in every for one in paper_figures(result, name)}
        rows.append([name, *cells, ", ".join(f"{system} {value:.3f}" for system, value in papers) or "-"])
    lines = [f"# {tasks[0]}", "", *_aligned(rows), ""]
    lines += _protocols(marks, every)
    for mark, one in zip(marks, every, strict=True):
        if one.left_out:
            lines.append(f"{mark} left out {len(one.left_out)} examples.")
    return "\n".join(lines)


def _called(results: Results) -> str:
    revision = results.system.get("revision") or results.system.get("weights")
    return f"{results.system['kind']} {results.system['name']}" + (f" @ {str(revision)[:8]}" if revision else "")


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    interval = "" if figure.interval is None else f" [{figure.interval[0]:.4f}, {figure.interval[1]:.4f}]"
    return f"{figure.value:.4f}{interval} n={figure.examples}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _protocols(marks: Sequence[str], every: Sequence[Results]) -> list[str]:
    flat = [_flat(one.protocol) for one in every]
    names = list(dict.fromkeys(name for one in flat for name in one))
    same = {name: flat[0].get(name) for name in names if all(one.get(name) == flat[0].get(name) for one in flat)}
    lines = ["Protocol: " + "; ".join(f"{name} {value}" for name, value in same.items() if value is not None)]
    for name in names:
        if name not in same:
            told = ", ".join(f"{mark} {one.get(name, 'not stated')}" for mark, one in zip(marks, flat, strict=True))
            lines.append(f"Not the same: {name}: {told}")
    return lines


def _flat(protocol: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in protocol.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


if __name__ == "__main__":
    sys.exit(main())
