"""Accounts for every tensor of an original checkpoint: where it goes, or why it is left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .original_files import Checkpoint, ConversionError

IMG_ROWS = "img_embeddings.weight"


@dataclass(frozen=True)
class TensorSource:
    """One checkpoint and what its names mean.

    Attributes:
        checkpoint: the tensors.
        renames: name, or beginning of names up to a dot -> the same of the model's parameters.
        left_out: beginning of names -> why such tensors are not needed.
        img_rows: names of tensors that may hold the rows of the `[IMG]` tokens; the first one present is taken.
    """

    checkpoint: Checkpoint
    renames: Mapping[str, str]
    left_out: Mapping[str, str]
    img_rows: Sequence[str] = ()


@dataclass(frozen=True)
class ReportRow:
    """One line of the report. `destination` is `None` for what is left out, and `reason` says why."""

    source: str
    shape: tuple[int, ...] | None
    destination: str | None
    reason: str = ""


@dataclass(frozen=True)
class PlacedTensors:
    """Model parameter -> tensor as in the source, in the source's dtype; and the account of the whole source."""

    tensors: dict[str, torch.Tensor]
    report: list[ReportRow]


def place_tensors(
    sources: Sequence[TensorSource],
    expected: Mapping[str, Sequence[int]],
    image_output_token_ids: Sequence[int],
    hints: Mapping[str, str] | None = None,
) -> PlacedTensors:
    """Finds the source tensor of each of the model's parameters.

    Args:
        sources: the checkpoints.
        expected: parameter of the model -> its shape.
        image_output_token_ids: ids of the `[IMG]` tokens, by which their rows are picked from a whole embedding: a
            vocabulary that is padded to a round number does not end with them.
        hints: parameter -> what to add to the message if its shape is wrong.

    Raises:
        ConversionError: tensors that are unknown, missing, of another shape (both are printed), no floating-point
            numbers, or not finite. All that is wrong is listed at once.
    """
    problems: list[str] = []
    report: list[ReportRow] = []
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for source in sources:
        _sort_out(source, expected, image_output_token_ids, found, report, problems)

    tensors: dict[str, torch.Tensor] = {}
    for destination, shape in expected.items():
        wanted = tuple(shape)
        if destination not in found:
            problems.append(f"{_names_of(destination, sources)} is missing: {_by(wanted)} for {destination}")
            continue
        name, tensor = found[destination]
        if tuple(tensor.shape) != wanted:
            hint = (hints or {}).get(destination, "")
            problems.append(
                f"{name} for {destination}: expected {_by(wanted)}, found {_by(tensor.shape)}{hint and f' ({hint})'}"
            )
        elif not tensor.is_floating_point():
            problems.append(f"{name} holds {tensor.dtype}, expected floating-point numbers")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds NaN or infinite values")
        else:
            tensors[destination] = tensor
    if problems:
        where = " and ".join(str(source.checkpoint.path) for source in sources)
        if len(problems) == 1:
            raise ConversionError(f"{where}: {problems[0]}")
        raise ConversionError(f"{where}: {len(problems)} problems\n  " + "\n  ".join(problems))
    return PlacedTensors(tensors, sorted(report, key=lambda row: (row.destination is None, row.source)))


def round_to(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Copies of `tensors` in `dtype`.

    Raises:
        ConversionError: values that `dtype` cannot hold (float16 ends at 65504).
    """
    # A copy also lets go of a mapped file and of the rest of an embedding that rows were picked from.
    rounded = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    too_large = [name for name, tensor in rounded.items() if not torch.isfinite(tensor).all()]
    if too_large:
        limit = torch.finfo(dtype).max
        raise ConversionError(f"values beyond {limit:g} do not fit --dtype {dtype_name(dtype)}: {', '.join(too_large)}")
    return rounded


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def format_report(report: Iterable[ReportRow]) -> str:
    """A table: source tensor, shape, destination or the reason for leaving it out."""
    lines = [("source", "shape", "destination")]
    for row in report:
        shape = "" if row.shape is None else _by(row.shape)
        lines.append((row.source, shape, row.destination or f"left out: {row.reason}"))
    widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines)


def _sort_out(
    source: TensorSource,
    expected: Mapping[str, Sequence[int]],
    image_output_token_ids: Sequence[int],
    found: dict[str, tuple[str, torch.Tensor]],
    report: list[ReportRow],
    problems: list[str],
) -> None:
    tensors = source.checkpoint.tensors
    report += [ReportRow(name, None, None, reason) for name, reason in source.checkpoint.left_out.items()]
    rows_name = next((name for name in source.img_rows if name in tensors), None)
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if name == rows_name:
            rows = _img_rows(name, tensor, expected[IMG_ROWS], image_output_token_ids, report)
            found[IMG_ROWS] = (name, rows)
        elif name in source.img_rows:
            reason = f"the language model's embedding; the new rows are taken from {rows_name}"
            report.append(ReportRow(name, shape, None, reason))
        elif (unneeded := _match(name, source.left_out)) is not None:
            report.append(ReportRow(name, shape, None, unneeded[1]))
        elif (renamed := _match(name, source.renames)) is None:
            problems.append(f"{name} ({_by(shape)}) is unknown: no adapter of this model is called that")
        else:
            old, new = renamed
            destination = new + name[len(old) :]
            if destination not in expected:
                problems.append(f"{name} ({_by(shape)}) is unknown: with these settings the model has no {destination}")
                continue
            # The logarithm of a temperature is one number, however it is wrapped.
            if not expected[destination] and tensor.numel() == 1:
                tensor = tensor.reshape(())
            found[destination] = (name, tensor)
            report.append(ReportRow(name, shape, destination))


def _img_rows(
    name: str, tensor: torch.Tensor, expected: Sequence[int], ids: Sequence[int], report: list[ReportRow]
) -> torch.Tensor:
    """The rows of the `[IMG]` tokens, shape (r, d), out of a pruned or a whole embedding, told apart by shape."""
    count = expected[0]
    shape = tuple(tensor.shape)
    if tensor.dim() == 1 and count == 1:
        report.append(ReportRow(name, shape, IMG_ROWS))
        return tensor[None]
    if tensor.dim() == 2 and count != shape[0] and max(ids) < shape[0]:
        listed = f"{ids[0]}..{ids[-1]}" if len(ids) > 1 else str(ids[0])
        report.append(ReportRow(f"{name}[{listed}]", (count, shape[1]), IMG_ROWS))
        reason = "frozen rows of the language model's own embedding"
        report.append(ReportRow(f"{name}, other rows", (shape[0] - count, shape[1]), None, reason))
        return tensor[list(ids)]
    report.append(ReportRow(name, shape, IMG_ROWS))
    return tensor


def _match(name: str, table: Mapping[str, str]) -> tuple[str, str] | None:
    """The longest entry of `table` that is `name` or its beginning up to a dot."""
    matches = [start for start in table if name == start or name.startswith(start + ".")]
    if not matches:
        return None
    longest = max(matches, key=len)
    return longest, table[longest]


def _names_of(destination: str, sources: Sequence[TensorSource]) -> str:
    if destination == IMG_ROWS:
        return " or ".join(name for source in sources for name in source.img_rows)
    for source in sources:
        match = _match(destination, {new: old for old, new in source.renames.items()})
        if match is not None:
            return match[1] + destination[len(match[0]) :]
    return destination


def _by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a scalar"
