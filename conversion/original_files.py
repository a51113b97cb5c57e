"""Reads the authors' `model_args.json` and `*.pth.tar` without executing code in them.

A `.pth.tar` is a pickle, which can name any function to be called. It is read by `torch.load(weights_only=True)`, which
allows tensors and plain containers only. The optimizer and the scheduler in a checkpoint of the authors' training are
replaced by placeholders.
"""

import mmap
import pickle
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from pipeline_gill.caption_files import read_json

from .file_limits import FileLimitError, check_archive, check_legacy_checkpoint, check_tensors, key_names

MODEL_ARGS_NAME = "model_args.json"
# The released name first, then those that the authors' training and pruning scripts write.
CHECKPOINT_NAMES = ("pretrained_ckpt.pth.tar", "ckpt_pruned.pth.tar", "ckpt_best.pth.tar", "ckpt.pth.tar")
DECISION_HEAD_NAME = "decision_model.pth.tar"

# Modules of the classes in `optimizer`, `scheduler` and `best_acc1` of a training checkpoint. None is needed.
_TRAINING_STATE_MODULES = ("torch.optim.", "warmup_scheduler.", "numpy.", "collections.defaultdict", "builtins.dict")
_NOT_ADAPTERS = "training state, not needed to use the model"


class ConversionError(ValueError):
    """The input cannot be converted; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """
    The content of a `.pth.tar`.

    Attributes:
        path (`Path`): The file.
        tensors (`dict[str, torch.Tensor]`): Tensors on the CPU by name, without a leading `module.`. If the format
            allows it, they are mapped from the file, which must exist while they are in use.
        left_out (`dict[str, str]`): Other entries, and second copies of tensors, with the reason.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    left_out: dict[str, str]


def read_settings(folder: Path, required: Iterable[str]) -> dict[str, Any]:
    """
    Read `model_args.json`.

    Raises:
        ConversionError: the folder or the file is missing, is not a JSON object, or lacks keys.
    """
    if not folder.is_dir():
        raise ConversionError(
            f"{folder} is not a folder; expected one with {MODEL_ARGS_NAME} and {CHECKPOINT_NAMES[0]}"
        )
    path = folder / MODEL_ARGS_NAME
    required = sorted(required)
    if not path.is_file():
        raise ConversionError(f"{path} is missing: the authors' settings, a JSON object with {_listed(required)}")
    args = read_json_object(path, f"an object with {_listed(required)}")
    missing = [key for key in required if key not in args]
    if missing:
        raise ConversionError(f"{path} lacks {_listed(missing)}")
    return args


def read_json_object(path: Path, expected: str = "an object") -> dict[str, Any]:
    """A JSON file of a release that holds an object.

    Args:
        path (`Path`): The file.
        expected (`str`): What it is to hold, for the message.

    Raises:
        ConversionError: it is no JSON, or holds another kind.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ConversionError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a JSON {type(content).__name__}; expected {expected}")
    return content


def find_checkpoint(folder: Path) -> Path:
    """
    The checkpoint of the trained adapters in `folder`.

    Raises:
        ConversionError: there is none; the message names the expected and the existing files.
    """
    for name in CHECKPOINT_NAMES:
        if (folder / name).is_file():
            return folder / name
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    raise ConversionError(
        f"{folder / CHECKPOINT_NAMES[0]} is missing: the trained adapters "
        f"({', '.join(CHECKPOINT_NAMES[1:])} are read as well; found {', '.join(present) or 'no files'})"
    )


def load_checkpoint(path: Path) -> Checkpoint:
    """
    Read the tensors of a `.pth.tar`: a pickled dict with a `state_dict`.

    Raises:
        ConversionError: the file is missing, empty, truncated, damaged, not a checkpoint, names anything but tensors
            and training state, or has no `state_dict` of tensors.
    """
    content = _load_weights_only(path)
    if not isinstance(content, dict) or "state_dict" not in content:
        found = f"a dict with {_listed(key_names(content))}" if isinstance(content, dict) else type(content).__name__
        raise ConversionError(f"{path} holds no `state_dict`: expected a dict with that key, found {found}")
    state = _checked_tensors(content["state_dict"], f"{path}: `state_dict`", path)
    left_out = dict.fromkeys(key_names(key for key in content if key != "state_dict"), _NOT_ADAPTERS)
    tensors: dict[str, torch.Tensor] = {}
    for stored_name, tensor in state.items():
        name = stored_name.removeprefix("module.")
        if name not in tensors:
            tensors[name] = tensor
        # The first version of the authors' pruning script keeps the names with `module.` beside those without.
        elif _same_values(tensors[name], tensor):
            left_out[stored_name] = f"second copy of {name}"
        else:
            raise ConversionError(f"{path} holds two different tensors for {name}, with and without `module.`")
    return Checkpoint(path, tensors, left_out)


def load_tensors(path: Path, name_alone: str | None = None) -> dict[str, torch.Tensor]:
    """
    Read a file of nothing but tensors by name: a `.bin`, as `torch.save(model.state_dict(), path)` writes it.

    Args:
        path (`Path`): The file.
        name_alone (`str`, *optional*): If given, the file may also hold one tensor alone, which gets this name.

    Returns:
        `dict[str, torch.Tensor]`: On the CPU, mapped from the file where its format allows it.

    Raises:
        ConversionError: as [`load_checkpoint`], or a content of another kind.
    """
    content = _load_weights_only(path)
    if name_alone is not None and isinstance(content, torch.Tensor):
        content = {name_alone: content}
    tensors = _checked_tensors(content, f"{path}: its content", path)
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _checked_tensors(state: Any, what: str, path: Path) -> dict[str, torch.Tensor]:
    invalid = [k for k, v in state.items() if not isinstance(v, torch.Tensor)] if isinstance(state, dict) else None
    if invalid is None or invalid:
        found = f"{_listed(key_names(invalid))} of other types" if invalid else f"a {type(state).__name__}"
        raise ConversionError(f"{what} should be a dict of tensors, found {found}")
    unnamed = [key for key in state if not isinstance(key, str)]
    if unnamed:
        raise ConversionError(f"{what} should have strings as names, found {key_names(unnamed)[0]}")
    try:
        check_tensors(state.items())
    except FileLimitError as error:
        raise ConversionError(f"{path} is refused: it holds {error}") from error
    return state


def _load_weights_only(path: Path) -> Any:
    if not path.is_file():
        raise ConversionError(f"{path} is missing")
    if path.stat().st_size == 0:
        raise ConversionError(f"{path} is empty; expected a checkpoint written by `torch.save`")
    is_zip = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        looks_cut_off = not is_zip and file.read(4) == b"PK\x03\x04"
    if looks_cut_off:
        raise ConversionError(f"{path} is truncated: the end of the zip archive is missing; copy or download it again")
    try:
        if not is_zip:
            # The format of torch < 1.6: a plain pickle, which cannot be mapped.
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check_legacy_checkpoint(content, len(content))
                content.seek(0)
                # Of a file of its own, torch would first ask `tarfile` whether it is an archive; a hostile one may
                # keep it busy without end.
                return torch.load(cast(IO[bytes], content), map_location="cpu", weights_only=True)
        check_archive(path, path.stat().st_size)
        _check_sums(path)
        admitted: list[Any] = [
            (_plain_dict if name == "collections.defaultdict" else _Placeholder, name)
            for name in _training_state_globals(path)
        ]
        with torch.serialization.safe_globals(admitted):
            # Mapped, because an unpruned checkpoint may hold the whole language model beside the adapters.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except ConversionError:
        raise
    except FileLimitError as error:
        raise ConversionError(f"{path} is refused: it holds {error}; nothing in it was executed") from error
    except pickle.UnpicklingError as error:
        raise ConversionError(f"{path} is not a checkpoint of tensors: {short_reason(error)}") from error
    except Exception as error:  # torch raises KeyError, EOFError, RuntimeError and more for other content.
        kind = type(error).__name__
        raise ConversionError(
            f"{path} is not a checkpoint written by `torch.save`, or is damaged ({kind}: {short_reason(error)})"
        ) from error


def _check_sums(path: Path) -> None:
    # torch does not compare the checksums that it writes: a flipped bit would become a wrong weight.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ConversionError(f"{path} is damaged: the checksum of its record {damaged} is wrong; download it again")


def _training_state_globals(path: Path) -> list[str]:
    """Names in the pickle that belong to the training state; other unknown names are refused."""
    names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    refused = [name for name in names if not name.startswith(_TRAINING_STATE_MODULES)]
    if refused:
        raise ConversionError(
            f"{path} is refused: it names {_listed(refused)}, which a checkpoint of tensors does not need; "
            "nothing in it was executed"
        )
    return names


class _Placeholder:
    """Replaces an optimizer, a scheduler or a numpy scalar: accepts any arguments and state and ignores them."""

    def __new__(cls, *_arguments: Any) -> "_Placeholder":
        return super().__new__(cls)

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass


def _plain_dict(*_default_factory: Any) -> dict[Any, Any]:
    """Replaces `collections.defaultdict`, since torch fills plain dicts only."""
    return {}


def _same_values(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "no keys"


def short_reason(error: Exception) -> str:
    """The line with the reason in the error of a library."""
    # torch puts the reason between paragraphs of advice.
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"it names `{named[1]}`; nothing in it was executed"
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return next(iter((reason or type(error).__name__).splitlines()), type(error).__name__)[:300]
