"""Maps the tensors of an original checkpoint to parameters of the model, with a reason for each that is left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from .original_files import Checkpoint, ConversionError

IMG_ROWS = "img_embeddings.weight"


@dataclass(frozen=True)
class TensorSource:
    """
    A checkpoint and how its tensors are mapped.

    Attributes:
        checkpoint (`Checkpoint`): The tensors.
        renames (`Mapping[str, str]`): Name or prefix (up to a dot) in the checkpoint to that in the model.
        left_out (`Mapping[str, str]`): Prefix to the reason why these tensors are not needed.
        img_rows (`Sequence[str]`): Possible names of the tensor with the rows of the `[IMG]` tokens, preferred first.
    """

    checkpoint: Checkpoint
    renames: Mapping[str, str]
    left_out: Mapping[str, str]
    img_rows: Sequence[str] = ()


@dataclass(frozen=True)
class ReportRow:
    """A line of the report. `destination` is `None` for tensors that are left out, with the `reason`."""

    source: str
    shape: tuple[int, ...] | None
    destination: str | None
    reason: str = ""


@dataclass(frozen=True)
class MappedTensors:
    """Tensors by model parameter, in the dtype of the source, and the report on all tensors of the source."""

    tensors: dict[str, torch.Tensor]
    report: list[ReportRow]


def map_tensors(
    sources: Sequence[TensorSource],
    expected: Mapping[str, Sequence[int]],
    image_output_token_ids: Sequence[int],
    hints: Mapping[str, str] | None = None,
) -> MappedTensors:
    """
    Find the source tensor of each parameter of the model.

    Args:
        sources (`Sequence[TensorSource]`): The checkpoints.
        expected (`Mapping[str, Sequence[int]]`): Shape of each parameter of the model.
        image_output_token_ids (`Sequence[int]`): Ids of the `[IMG]` tokens, which select their rows in an embedding of
            the whole vocabulary. They are not its last rows if the vocabulary is padded.
        hints (`Mapping[str, str]`, *optional*): Text to add to the error message of a parameter with a wrong shape.

    Raises:
        ConversionError: lists all tensors that are unknown or missing, have another shape than expected, are not
            floating point, or are not finite.
    """
    problems: list[str] = []
    report: list[ReportRow] = []
    matched: dict[str, tuple[str, torch.Tensor]] = {}
    for source in sources:
        _match_source(source, expected, image_output_token_ids, matched, report, problems)

    tensors: dict[str, torch.Tensor] = {}
    for destination, shape in expected.items():
        expected_shape = tuple(shape)
        if destination not in matched:
            problems.append(f"{_names_of(destination, sources)} is missing: {_by(expected_shape)} for {destination}")
            continue
        name, tensor = matched[destination]
        if tuple(tensor.shape) != expected_shape:
            hint = f" ({hints[destination]})" if hints and destination in hints else ""
            problems.append(
                f"{name} for {destination}: expected {_by(expected_shape)}, found {_by(tensor.shape)}{hint}"
            )
        elif not tensor.is_floating_point():
            problems.append(f"{name} holds {tensor.dtype}, expected floating point")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds NaN or infinite values")
        else:
            tensors[destination] = tensor
    if problems:
        where = " and ".join(str(source.checkpoint.path) for source in sources)
        if len(problems) == 1:
            raise ConversionError(f"{where}: {problems[0]}")
        raise ConversionError(f"{where}: {len(problems)} problems\n  " + "\n  ".join(problems))
    return MappedTensors(tensors, sorted(report, key=lambda row: (row.destination is None, row.source)))


def round_to(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """
    Copies of `tensors` in `dtype`.

    Raises:
        ConversionError: values outside of the range of `dtype` (65504 in float16).
    """
    # Copies keep neither a mapped file open nor the embedding that rows were selected from.
    rounded = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    too_large = [name for name, tensor in rounded.items() if not torch.isfinite(tensor).all()]
    if too_large:
        limit = torch.finfo(dtype).max
        raise ConversionError(f"Values above {limit:g} do not fit --dtype {dtype_name(dtype)}: {', '.join(too_large)}")
    return rounded


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


def format_report(report: Iterable[ReportRow]) -> str:
    """A table of source tensors, their shapes, and their destination or the reason why they are left out."""
    lines = [("source", "shape", "destination")]
    for row in report:
        shape = "" if row.shape is None else _by(row.shape)
        lines.append((row.source, shape, row.destination or f"left out: {row.reason}"))
    widths = [max(len(line[i]) for line in lines) for i in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines)


def _match_source(
    source: TensorSource,
    expected: Mapping[str, Sequence[int]],
    image_output_token_ids: Sequence[int],
    matched: dict[str, tuple[str, torch.Tensor]],
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
            matched[IMG_ROWS] = (name, rows)
        elif name in source.img_rows:
            reason = f"the language model's embedding; the new rows are taken from {rows_name}"
            report.append(ReportRow(name, shape, None, reason))
        elif (unneeded := _match(name, source.left_out)) is not None:
            report.append(ReportRow(name, shape, None, unneeded[1]))
        elif (renamed := _match(name, source.renames)) is None:
            problems.append(f"{name} ({_by(shape)}) is unknown: the model has no adapter of this name")
        else:
            old, new = renamed
            destination = new + name[len(old) :]
            if destination not in expected:
                problems.append(f"{name} ({_by(shape)}) is unknown: with these settings the model has no {destination}")
                continue
            # `logit_scale` is a scalar; checkpoints may store it with one dimension.
            if not expected[destination] and tensor.numel() == 1:
                tensor = tensor.reshape(())
            matched[destination] = (name, tensor)
            report.append(ReportRow(name, shape, destination))


def _img_rows(
    name: str, tensor: torch.Tensor, expected: Sequence[int], ids: Sequence[int], report: list[ReportRow]
) -> torch.Tensor:
    """Rows of the `[IMG]` tokens, `(num_img_tokens, hidden_size)`, from an embedding of these tokens or of all."""
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
    """The longest entry of `table` that is `name` or a prefix of it up to a dot."""
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
