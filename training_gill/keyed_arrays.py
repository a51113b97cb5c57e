"""Arrays of one shape by a text key, on disk in shards that are mapped into memory, not read."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

INFO_FILE = "info.json"


class CacheError(ValueError):
    """A cache that is not there, not whole, or made for something else; the message says which and what to do."""


class KeyedArrayWriter:
    """
    Writes a folder of [`KeyedArrays`], shard by shard; run again after an interruption it goes on where it was.

    Args:
        folder (`Path`): To write to.
        info (`dict`): What the arrays are made with; JSON. A folder begun with another `info` is refused.
        shard_size (`int`): Arrays a shard.

    Raises:
        CacheError: the folder holds arrays that were made with something else.
    """

    def __init__(self, folder: Path, info: dict[str, Any], shard_size: int = 4096) -> None:
        self.folder, self.info, self.shard_size = folder, info, shard_size
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / INFO_FILE).exists():
            found = _read_info(folder)
            found.pop("complete", None)
            if found != info:
                raise CacheError(f"{folder} holds {_differences(found, info)}; expected an empty folder to write to.")
        self._write_info(complete=False)
        self._seen = {int(key) for shard in _shards(folder) for key in np.load(shard[0])}
        self._keys: list[int] = []
        self._values: list[np.ndarray] = []

    def missing(self, keys: Iterable[str]) -> Iterator[str]:
        """Those of `keys` that were neither written nor asked for yet."""
        for key in keys:
            number = _hash(key)
            if number not in self._seen:
                self._seen.add(number)
                yield key

    def add(self, key: str, value: np.ndarray) -> None:
        """Take one array; on disk with the next full shard or `finish`."""
        self._keys.append(_hash(key))
        self._values.append(value)
        if len(self._keys) == self.shard_size:
            self._flush()

    def finish(self) -> None:
        """Write what is left and mark the cache as whole."""
        self._flush()
        self._write_info(complete=True)

    def _flush(self) -> None:
        if not self._keys:
            return
        number = len(_shards(self.folder))
        # The keys make a shard exist: they come last.
        for name, array in (("values", np.stack(self._values)), ("keys", np.array(self._keys, dtype=np.uint64))):
            beside = self.folder / f".{name}-{number:05d}.npy"
            np.save(beside, array)
            os.replace(beside, self.folder / f"{name}-{number:05d}.npy")
        self._keys, self._values = [], []

    def _write_info(self, complete: bool) -> None:
        beside = self.folder / f".{INFO_FILE}"
        beside.write_text(json.dumps({**self.info, "complete": complete}, indent=2) + "\n", encoding="utf-8")
        os.replace(beside, self.folder / INFO_FILE)


class KeyedArrays:
    """
    Arrays that a [`KeyedArrayWriter`] wrote.

    Args:
        folder (`Path`): With `info.json`, `keys-*.npy` and `values-*.npy`.

    Attributes:
        info (`dict`): What they were made with.

    Raises:
        CacheError: no whole cache in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = _read_info(folder)
        if not self.info.pop("complete", False):
            raise CacheError(
                f"{folder} is not whole: `python -m training_gill.precompute` was interrupted; run it again."
            )
        shards = _shards(folder)
        self._values = [np.load(values, mmap_mode="r") for _, values in shards]
        keys = [np.load(keys) for keys, _ in shards]
        sizes = [len(some) for some in keys]
        everything = np.concatenate(keys) if keys else np.empty(0, dtype=np.uint64)
        order = np.argsort(everything)
        self._keys = everything[order]
        self._shard = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order] if sizes else order

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._place(key) is not None

    def __getitem__(self, key: str) -> np.ndarray:
        place = self._place(key)
        if place is None:
            raise KeyError(key)
        return np.array(self._values[self._shard[place]][self._row[place]])

    def _place(self, key: str) -> int | None:
        number = np.uint64(_hash(key))
        place = int(np.searchsorted(self._keys, number))
        return place if place < len(self._keys) and self._keys[place] == number else None


def _read_info(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CacheError(
            f"{folder} holds no cache ({error.__class__.__name__}: {INFO_FILE}); make one with "
            "`python -m training_gill.precompute`."
        ) from error


def _shards(folder: Path) -> list[tuple[Path, Path]]:
    keys = sorted(folder.glob("keys-*.npy"))
    return [(path, path.with_name(path.name.replace("keys-", "values-"))) for path in keys]


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    named = sorted({*found, *expected})
    return "; ".join(
        f"{name} {found.get(name)!r} rather than {expected.get(name)!r}"
        for name in named
        if found.get(name) != expected.get(name)
    )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def refuse_other_info(folder: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises:
    CacheError: `found` lacks something of `expected`, or has it otherwise; both values are named."""
    relevant = {name: found.get(name) for name in expected}
    if relevant != expected:
        raise CacheError(
            f"The cache {folder} was made with {_differences(relevant, expected)}, which this training needs; make "
            "another with `python -m training_gill.precompute`."
        )


__all__ = ["CacheError", "KeyedArrayWriter", "KeyedArrays", "refuse_other_info"]
