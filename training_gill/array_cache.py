"""Arrays on disk by a text key: written shard by shard, by one process or several, and read from mapped memory."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from .array_shards import (
    AGAIN,
    DTYPES,
    INFO_FILE,
    CacheError,
    Column,
    Shard,
    check_made_with,
    check_number_of_parts,
    describe_differences,
    key_files,
    part_folder,
    part_folders,
    read_info,
    write_json,
    write_shard,
)

SHARD_SIZE = 4096
_PROGRESS = ("complete", "arrays")


class ArrayCache:
    """
    Arrays by a text key.

    Args:
        folder (`Path`): With `info.json`, `keys-*.npy` and so on, or with the folders of several processes.
        columns (`Sequence[Column]`): The arrays of every key.
        expected (`dict`, *optional*): What the arrays must have been made with.

    Attributes:
        info (`dict`): What they were made with.

    Raises:
        CacheError: there is no cache, it is incomplete or was made with something else, or a file is damaged.
    """

    FOLDER = ""
    """Of this kind of arrays, in the folder of a cache."""

    def __init__(self, folder: Path, columns: Sequence[Column], expected: Mapping[str, Any] | None = None) -> None:
        self.folder, self.columns = folder, columns
        self.info = read_info(folder)
        comparable = self._comparable(self.info)
        check_made_with(folder, comparable, None if expected is None else self._comparable(expected))
        self._shards: list[Shard] = []
        for part in part_folders(folder):
            info = read_info(part)
            if self._comparable(info) != comparable:
                raise CacheError(f"{part} is of another cache than the other parts; {AGAIN}.")
            if info.get("complete") is not True:
                raise CacheError(f"{part} is incomplete: `gill precompute` was interrupted; run it again.")
            shards = [Shard(path, columns, info) for path in key_files(part)]
            found, named = sum(len(shard.keys) for shard in shards), info.get("arrays")
            if named is not None and named != found:
                raise CacheError(f"{part} is damaged: {found} arrays, {INFO_FILE} names {named!r}; {AGAIN}.")
            self._shards += shards
        for name in _PROGRESS:
            self.info.pop(name, None)
        sizes = [len(shard.keys) for shard in self._shards]
        keys = np.concatenate([shard.keys for shard in self._shards]) if sizes else np.empty(0, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._shard = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order] if sizes else order
        if (self._keys[1:] == self._keys[:-1]).any():
            raise CacheError(f"{folder} is damaged: it holds a key twice; {AGAIN}.")

    @classmethod
    def exists(cls, cache: Path) -> bool:
        """Whether a cache was made with arrays of this kind."""
        return (Path(cache) / cls.FOLDER).is_dir()

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._position(key) is not None

    def read(self, key: str) -> dict[str, torch.Tensor]:
        """The arrays of a key by their columns' names, in the dtype that they are stored in.

        Raises:
            KeyError: there is none. CacheError: one holds NaN or infinity.
        """
        position = self._position(key)
        if position is None:
            raise KeyError(key)
        shard = self._shards[self._shard[position]]
        found = {column.name: shard.read(column, int(self._row[position])) for column in self.columns}
        for name, value in found.items():
            if not torch.isfinite(value).all():
                raise CacheError(f"{shard.place(name)} is damaged: NaN or infinity for {key!r:.80}; {AGAIN}.")
        return found

    def _comparable(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What of a description must be the same in all parts, and as expected."""
        return {name: value for name, value in info.items() if name not in _PROGRESS}

    def _position(self, key: str) -> int | None:
        number = np.uint64(_hash(key))
        position = int(np.searchsorted(self._keys, number))
        return position if position < len(self._keys) and self._keys[position] == number else None


class ArrayCacheWriter:
    """
    Writes the folder of an [`ArrayCache`], shard by shard; after an interruption it continues where it was.

    To be used in a `with` statement, in which no other process may write to the folder. Leaving it without an error
    marks the cache as complete.

    Args:
        folder (`Path`): To write to.
        info (`dict`): What the arrays are made with, as JSON can hold it.
        columns (`Sequence[Column]`): The arrays of every key.
        dtype (`str`): To store them in, a name of [`DTYPES`].
        shard_size (`int`, defaults to 4096): Arrays in a shard.
        part (`tuple[int, int]`, defaults to `(0, 1)`):
            Which part of the keys this process writes, and of how many parts.

    Raises:
        CacheError: another process is writing to the folder, it holds arrays that were made with something else or
            shared among another number of processes, or it is damaged.
    """

    def __init__(
        self,
        folder: Path,
        info: Mapping[str, Any],
        columns: Sequence[Column],
        dtype: str,
        shard_size: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.cache, self.part, self.folder = folder, part, part_folder(folder, part)
        self.info = {**info, "dtype": dtype}
        self.columns, self.dtype, self.shard_size = columns, DTYPES[dtype], shard_size or SHARD_SIZE
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        self._known: set[int] = set()
        self._pending: list[tuple[int, dict[str, np.ndarray]]] = []
        self._shards = self._written = 0

    def __enter__(self) -> "ArrayCacheWriter":
        check_number_of_parts(self.cache, self.part[1])
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise CacheError(f"{self.folder} is being written by another process; wait until it is done.") from None
        try:
            self._continue()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                self._write_info(complete=True)
        finally:
            self._lock.release()

    def missing(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of `keys` in this process's part that were neither written nor yielded before."""
        own, parts = self.part
        for key in keys:
            number = _hash(key)
            if number % parts == own and number not in self._known:
                self._known.add(number)
                yield key

    def add(self, key: str, value: np.ndarray | Mapping[str, np.ndarray]) -> None:
        """Take the arrays of one key; they are on disk with the next full shard or at the end.

        Args:
            key (`str`): Of the arrays.
            value (`np.ndarray` or `dict[str, np.ndarray]`): The array, or those of several columns by their names.

        Raises:
            CacheError: an array of another shape, or one that the dtype cannot hold.
        """
        values = value if isinstance(value, Mapping) else {self.columns[0].name: value}
        self._pending.append((_hash(key), {column.name: self._stored(column, key, values) for column in self.columns}))
        if len(self._pending) == self.shard_size:
            self._flush()

    def _stored(self, column: Column, key: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = np.asarray(values[column.name]).astype(self.dtype)
        length = stored.shape[0] if stored.ndim else 0
        fits = 0 < length <= column.shape[0] if column.is_ragged else length == column.shape[0]
        if not fits or stored.shape[1:] != column.shape[1:]:
            upto = " or shorter" if column.is_ragged else ""
            raise CacheError(
                f"{self.folder} takes `{column.name}` of shape {column.shape}{upto}, got {stored.shape} for "
                f"{key!r:.80}."
            )
        if not np.isfinite(stored).all():
            raise CacheError(
                f"{key!r:.80} has values that {np.dtype(self.dtype).name} cannot hold, the largest is "
                f"{np.abs(values[column.name]).max()}; store float32."
            )
        return stored

    def _continue(self) -> None:
        if (self.folder / INFO_FILE).exists():
            found = read_info(self.folder)
            for name in _PROGRESS:
                found.pop(name, None)
            if found != self.info:
                differences = describe_differences(found, self.info)
                raise CacheError(f"{self.folder} holds {differences}; expected an empty folder to write to.")
        elif key_files(self.folder):
            raise CacheError(f"{self.folder} is damaged: it has no {INFO_FILE}; {AGAIN}.")
        shards = [Shard(path, self.columns, self.info) for path in key_files(self.folder)]
        self._known = {int(key) for shard in shards for key in shard.keys}
        self._shards, self._written = len(shards), sum(len(shard.keys) for shard in shards)
        self._write_info(complete=False)

    def _flush(self) -> None:
        if not self._pending:
            return
        write_shard(self.folder, self._shards, self.columns, self._pending)
        self._shards, self._written = self._shards + 1, self._written + len(self._pending)
        self._pending = []

    def _write_info(self, complete: bool) -> None:
        info = {**self.info, "complete": complete, **({"arrays": self._written} if complete else {})}
        write_json(self.folder / INFO_FILE, info)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


__all__ = ["ArrayCache", "ArrayCacheWriter"]
