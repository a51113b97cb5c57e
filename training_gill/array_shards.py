"""The files of a cache of arrays: shards that are mapped into memory, and the descriptions beside them.

`keys-00000.npy` holds hashes of the keys, uint64; `values-00000.npy`, or one such file for each column by its name, the
arrays of the same rows. A ragged column holds the rows one after the other, and `<name>-lengths-00000.npy` how long
each is. `info.json` says what the arrays were made with and whether all are there. Processes that share the work each
write a folder of this kind, `part-00000-of-00004` and so on, into the cache's.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill.caption_files import CaptionFileError, read_json

INFO_FILE = "info.json"
DTYPES = {"float16": np.float16, "float32": np.float32}
AGAIN = "run `gill precompute` again into an empty folder"


class CacheError(ValueError):
    """A cache that is missing, incomplete, damaged, or made for something else; the message names the file."""


@dataclass(frozen=True)
class Column:
    """
    One array of each key.

    Args:
        shape (`tuple[int, ...]`): Of the array.
        name (`str`, defaults to `"values"`): Of the files that hold it.
        is_ragged (`bool`, defaults to `False`): Whether its first dimension may be shorter than in `shape`.
        least_length (`int`, defaults to 1): The shortest that it may then be.
    """

    shape: tuple[int, ...]
    name: str = "values"
    is_ragged: bool = False
    least_length: int = 1

    @property
    def files(self) -> list[str]:
        """Beginnings of the names of its files."""
        return [self.name, f"{self.name}-lengths"] if self.is_ragged else [self.name]


class Shard:
    """Keys and arrays of one shard.

    Raises:
        CacheError: a file is missing or damaged, or does not fit the others, the columns or the dtype of the info.
    """

    def __init__(self, path: Path, columns: Sequence[Column], info: Mapping[str, Any]) -> None:
        self._path = path
        dtype = DTYPES.get(str(info.get("dtype")))
        if dtype is None:
            raise CacheError(
                f"{path.parent / INFO_FILE} has the dtype {info.get('dtype')!r}, expected one of {[*DTYPES]}."
            )
        # Mapped, so that no file can claim more memory than it is long.
        keys = _open_array(path)
        _check_array(path, keys, np.dtype(np.uint64), (keys.size,))
        self.keys = np.array(keys)
        self._values: dict[str, np.memmap] = {}
        self._ends: dict[str, np.ndarray] = {}
        for column in columns:
            rows = len(self.keys)
            if column.is_ragged:
                lengths = _open_array(self.place(column.files[1]))
                _check_array(self.place(column.files[1]), lengths, np.dtype(np.uint32), (rows,))
                if rows and not column.least_length <= lengths.min() <= lengths.max() <= column.shape[0]:
                    raise CacheError(f"{self.place(column.files[1])} is damaged: lengths out of range; {AGAIN}.")
                self._ends[column.name] = lengths.cumsum(dtype=np.int64)
                rows = int(lengths.sum(dtype=np.int64))
            values = _open_array(self.place(column.name))
            shape = (rows, *column.shape[1:]) if column.is_ragged else (rows, *column.shape)
            _check_array(self.place(column.name), values, np.dtype(dtype), shape)
            self._values[column.name] = values

    def place(self, name: str) -> Path:
        """The file of a column."""
        return self._path.with_name(self._path.name.replace("keys-", f"{name}-"))

    def read(self, column: Column, row: int) -> torch.Tensor:
        """A copy of one array."""
        values = self._values[column.name]
        if not column.is_ragged:
            return torch.from_numpy(np.array(values[row]))
        ends = self._ends[column.name]
        return torch.from_numpy(np.array(values[ends[row - 1] if row else 0 : ends[row]]))


def write_shard(
    folder: Path, number: int, columns: Sequence[Column], rows: Sequence[tuple[int, Mapping[str, np.ndarray]]]
) -> None:
    """Write a shard of hashes of keys and their arrays by column."""
    arrays: dict[str, np.ndarray] = {}
    for column in columns:
        values = [row[column.name] for _, row in rows]
        arrays[column.name] = np.concatenate(values) if column.is_ragged else np.stack(values)
        if column.is_ragged:
            arrays[column.files[1]] = np.array([len(value) for value in values], dtype=np.uint32)
    # The keys make a shard exist: they come last.
    arrays["keys"] = np.array([key for key, _ in rows], dtype=np.uint64)
    for name, array in arrays.items():
        with replace_file(folder / f"{name}-{number:05d}.npy") as path:
            np.save(path, array)


def read_info(folder: Path) -> dict[str, Any]:
    """What a cache was made with.

    Raises:
        CacheError: there is no cache, or its description is damaged.
    """
    path = part_folders(folder)[0] / INFO_FILE
    if not path.exists():
        raise CacheError(f"{folder} holds no cache ({INFO_FILE} is missing); make one with `gill precompute`.")
    info = read_object(path)
    if "vision_model" in info:
        info.setdefault("vision_pooling", "pooler")  # not in caches of older versions
    return info


def check_made_with(folder: Path, found: Mapping[str, Any], expected: Mapping[str, Any] | None) -> None:
    """
    Raises:
        CacheError: the cache was made with something else than expected; the message names both.
    """
    own = {name: found.get(name) for name in expected or {}}
    if expected is not None and own != expected:
        raise CacheError(
            f"The cache {folder} was made with {describe_differences(own, expected)}, which this training needs; "
            "make another with `gill precompute`."
        )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object of a cache.

    Raises:
        CacheError: the file is damaged.
    """
    try:
        found = read_json(path)
    except (OSError, CaptionFileError) as error:
        raise CacheError(f"{path} is damaged ({error}); {AGAIN}.") from error
    if not isinstance(found, dict):
        raise CacheError(f"{path} is damaged: it holds no JSON object; {AGAIN}.")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of a cache in one step."""
    with replace_file(path) as new:
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def part_folder(folder: Path, part: tuple[int, int]) -> Path:
    """Where a process writes its part of a cache, its number and that of all parts; one alone writes to the cache."""
    return folder if part[1] == 1 else folder / f"part-{part[0]:05d}-of-{part[1]:05d}"


def _parts_there(folder: Path) -> list[Path]:
    """The folders of the processes that share a cache, those that are there; none where one process wrote it."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"part-\d{5}-of-\d{5}", path.name))


def part_folders(folder: Path) -> list[Path]:
    """All folders of a cache.

    Raises:
        CacheError: some are missing.
    """
    parts = _parts_there(folder)
    if not parts:
        return [folder]
    count = int(parts[0].name[-5:])
    expected = [part_folder(folder, (number, count)) for number in range(count)]
    if parts != expected:
        missing = [path.name for path in expected if path not in parts] or [parts[0].name, parts[-1].name]
        raise CacheError(
            f"{folder} is incomplete: it lacks {', '.join(missing)}; run `gill precompute` for every `--shard`."
        )
    return parts


def check_number_of_parts(folder: Path, count: int) -> None:
    counts = {int(path.name[-5:]) for path in _parts_there(folder)}
    if (folder / INFO_FILE).exists():
        counts.add(1)
    if counts - {count}:
        raise CacheError(
            f"{folder} is shared among {min(counts - {count})} processes (`--num-shards`), this run among {count}; "
            "expected an empty folder, or the same number."
        )


def _open_array(path: Path) -> np.memmap:
    try:
        # Unlike `np.load`, it takes neither pickles nor archives for arrays.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError, MemoryError, SyntaxError, RecursionError) as error:
        raise CacheError(f"{path} is missing or damaged: {error}; {AGAIN}.") from error


def _check_array(path: Path, array: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise CacheError(
            f"{path} is damaged: {array.dtype} of shape {array.shape}, expected {dtype} of shape {shape}; {AGAIN}."
        )


def key_files(folder: Path) -> list[Path]:
    return sorted(folder / name for name in os.listdir(folder) if name.startswith("keys-") and name.endswith(".npy"))


def describe_differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {found.get(name)!r} rather than {expected.get(name)!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    )


__all__ = [
    "AGAIN",
    "DTYPES",
    "INFO_FILE",
    "CacheError",
    "Column",
    "Shard",
    "check_made_with",
    "check_number_of_parts",
    "describe_differences",
    "key_files",
    "part_folder",
    "part_folders",
    "read_info",
    "read_object",
    "write_json",
    "write_shard",
]
