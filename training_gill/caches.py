"""What training reads instead of running frozen models: text-encoder targets of captions, features of images.

A cache is a folder of shards. `keys-00000.npy` holds hashes of the keys, uint64, `values-00000.npy` the arrays of the
same rows; both are mapped into memory. `info.json` says what the arrays were made with and whether all are there.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from modeling_gill.atomic_write_gill import replace_file
from modeling_gill.image_encoder_gill import ImagePooling
from pipeline_gill.caption_files import CaptionFileError, read_json

from .frozen_models import full_path

INFO_FILE = "info.json"
UNREADABLE_FILE = "unreadable.json"
DTYPES = {"float16": np.float16, "float32": np.float32}
SHARD_SIZE = 4096
_AGAIN = "run `gill precompute` again into an empty folder"


class CacheError(ValueError):
    """A cache that is missing, incomplete, damaged, or made for something else; the message names the file."""


class ArrayCache:
    """
    Arrays of one shape and dtype by a text key.

    Args:
        folder (`Path`): With `info.json`, `keys-*.npy` and `values-*.npy`.
        shape (`tuple[int, ...]`): Of every array.
        expected (`dict`, *optional*): What the arrays must have been made with.

    Attributes:
        info (`dict`): What they were made with.

    Raises:
        CacheError: there is no cache, it is incomplete or was made with something else, or a file is damaged.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], expected: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.info = _read_info(folder)
        found = {name: self.info.get(name) for name in expected or {}}
        if expected is not None and found != expected:
            raise CacheError(
                f"The cache {folder} was made with {_differences(found, expected)}, which this training needs; make "
                "another with `gill precompute`."
            )
        if self.info.pop("complete", False) is not True:
            raise CacheError(f"{folder} is incomplete: `gill precompute` was interrupted; run it again.")
        count = self.info.pop("arrays", None)
        shards = [_open_shard(path, shape, self.info) for path in _key_files(folder)]
        self._values = [values for _, values in shards]
        keys = np.concatenate([keys for keys, _ in shards]) if shards else np.empty(0, dtype=np.uint64)
        sizes = [len(values) for values in self._values]
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._shard = np.repeat(np.arange(len(sizes)), sizes)[order]
        self._row = np.concatenate([np.arange(size) for size in sizes])[order] if sizes else order
        if (self._keys[1:] == self._keys[:-1]).any():
            raise CacheError(f"{folder} is damaged: it holds a key twice; {_AGAIN}.")
        if count is not None and count != len(self._keys):
            raise CacheError(f"{folder} is damaged: {len(self._keys)} arrays, {INFO_FILE} names {count!r}; {_AGAIN}.")

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._position(key) is not None

    def __getitem__(self, key: str) -> torch.Tensor:
        """The array of a key, float32.

        Raises:
            KeyError: there is none. CacheError: it holds NaN or infinity.
        """
        position = self._position(key)
        if position is None:
            raise KeyError(key)
        shard = self._values[self._shard[position]]
        value = torch.from_numpy(np.array(shard[self._row[position]], dtype=np.float32))
        if not torch.isfinite(value).all():
            raise CacheError(f"{shard.filename} is damaged: NaN or infinity for {key!r:.80}; {_AGAIN}.")
        return value

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
        shape (`tuple[int, ...]`): Of every array.
        dtype (`str`): To store them in, a name of [`DTYPES`].
        shard_size (`int`, defaults to 4096): Arrays in a shard.

    Raises:
        CacheError: another process is writing to the folder, it holds arrays that were made with something else, or it
            is damaged.
    """

    def __init__(
        self, folder: Path, info: Mapping[str, Any], shape: tuple[int, ...], dtype: str, shard_size: int | None = None
    ) -> None:
        self.folder, self.info = folder, {**info, "dtype": dtype}
        self.shape, self.dtype, self.shard_size = shape, DTYPES[dtype], shard_size or SHARD_SIZE
        self._lock = FileLock(folder / ".lock", timeout=0)
        self._known: set[int] = set()
        self._pending: list[tuple[int, np.ndarray]] = []
        self._shards = self._written = 0

    def __enter__(self) -> "ArrayCacheWriter":
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
        """Those of `keys` that were neither written nor yielded before."""
        for key in keys:
            number = _hash(key)
            if number not in self._known:
                self._known.add(number)
                yield key

    def add(self, key: str, value: np.ndarray) -> None:
        """Take one array; it is on disk with the next full shard or at the end.

        Raises:
            CacheError: an array of another shape, or one that the dtype cannot hold.
        """
        with np.errstate(over="ignore"):
            stored = np.asarray(value).astype(self.dtype)
        if stored.shape != self.shape:
            raise CacheError(f"{self.folder} takes arrays of shape {self.shape}, got {stored.shape} for {key!r:.80}.")
        if not np.isfinite(stored).all():
            raise CacheError(
                f"{key!r:.80} has values that {np.dtype(self.dtype).name} cannot hold, the largest is "
                f"{np.abs(value).max()}; store float32."
            )
        self._pending.append((_hash(key), stored))
        if len(self._pending) == self.shard_size:
            self._flush()

    def _continue(self) -> None:
        if (self.folder / INFO_FILE).exists():
            found = _read_info(self.folder)
            for name in ("complete", "arrays"):
                found.pop(name, None)
            if found != self.info:
                raise CacheError(
                    f"{self.folder} holds {_differences(found, self.info)}; expected an empty folder to write to."
                )
        elif _key_files(self.folder):
            raise CacheError(f"{self.folder} is damaged: it has no {INFO_FILE}; {_AGAIN}.")
        shards = [_open_shard(path, self.shape, self.info)[0] for path in _key_files(self.folder)]
        self._known = {int(key) for keys in shards for key in keys}
        self._shards, self._written = len(shards), sum(map(len, shards))
        self._write_info(complete=False)

    def _flush(self) -> None:
        if not self._pending:
            return
        keys = np.array([key for key, _ in self._pending], dtype=np.uint64)
        # The keys make a shard exist: they come last.
        for name, array in (("values", np.stack([value for _, value in self._pending])), ("keys", keys)):
            with replace_file(self.folder / f"{name}-{self._shards:05d}.npy") as path:
                np.save(path, array)
        self._shards, self._written = self._shards + 1, self._written + len(keys)
        self._pending = []

    def _write_info(self, complete: bool) -> None:
        info = {**self.info, "complete": complete, **({"arrays": self._written} if complete else {})}
        _write_json(self.folder / INFO_FILE, info)


class TextTargetsCache(ArrayCache):
    """
    Targets of the conditioning loss by caption, in the form of [`GillOutput.conditioning`] for one image.

    Args:
        cache (`Path`): Folder that `gill precompute` wrote.
        expected (`dict`, *optional*): [`target_info`] of the model that is trained.

    Raises:
        CacheError: there is none, or it is incomplete, damaged or made for something else.
    """

    FOLDER = "text_targets"

    def __init__(self, cache: Path, expected: Mapping[str, Any] | None = None) -> None:
        folder = Path(cache) / self.FOLDER
        super().__init__(folder, _shape_in(folder, "conditioning_length", "conditioning_dim"), expected)

    def __getitem__(self, caption: str) -> dict[str, torch.Tensor]:  # type: ignore[override]
        try:
            return {"prompt_embeds": super().__getitem__(caption)}
        except KeyError:
            raise CacheError(
                f"The cache {self.folder} has no target for the caption {caption!r:.80}: it was made for other data, "
                "or another cut of them; run `gill precompute` over these."
            ) from None


class ImageFeatureCache(ArrayCache):
    """
    Features of images by the key of an example: float32 of shape `(vision_dim,)`, or of patches `(num_visual_tokens,
    vision_dim)`.

    Args:
        cache (`Path`): Folder that `gill precompute --image-features` wrote.
        expected (`dict`, *optional*): [`feature_info`] of the model that is trained.

    Attributes:
        unreadable (`dict[str, str]`): Why images have no feature, by the key of their example.

    Raises:
        CacheError: there is none, or it is incomplete, damaged or made for something else.
    """

    FOLDER = "image_features"

    def __init__(self, cache: Path, expected: Mapping[str, Any] | None = None) -> None:
        folder = Path(cache) / self.FOLDER
        names = ("num_visual_tokens", "vision_dim") if "num_visual_tokens" in _read_info(folder) else ("vision_dim",)
        super().__init__(folder, _shape_in(folder, *names), expected)
        self.unreadable = read_unreadable(folder)

    def __getitem__(self, key: str) -> torch.Tensor:
        try:
            return super().__getitem__(key)
        except KeyError:
            raise CacheError(
                f"The cache {self.folder} has no image {key!r:.80}: it was made for other data, or another cut of "
                "them; run `gill precompute --image-features` over these."
            ) from None

    @classmethod
    def exists(cls, cache: Path) -> bool:
        """Whether a cache was made with `--image-features`."""
        return (Path(cache) / cls.FOLDER).is_dir()


def target_info(generator_id: str | None, revision: str | None, length: int, width: int) -> dict[str, Any]:
    """What a cache of targets says about itself; every part must be that of the model that is trained."""
    return {
        "image_generator": generator_id and full_path(generator_id),
        "image_generator_revision": revision or "main",
        "conditioning_length": length,
        "conditioning_dim": width,
    }


def feature_info(
    vision_model_id: str | None, revision: str | None, shape: tuple[int, ...], pooling: ImagePooling
) -> dict[str, Any]:
    """What a cache of features says about itself; every part must be that of the model that is trained."""
    info = {
        "vision_model": vision_model_id and full_path(vision_model_id),
        "vision_model_revision": revision or "main",
        "vision_dim": shape[-1],
        "vision_pooling": str(pooling),
    }
    return info if len(shape) == 1 else {**info, "num_visual_tokens": shape[0]}


def read_unreadable(folder: Path) -> dict[str, str]:
    """Why images of a cache have no feature, by their keys.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / UNREADABLE_FILE
    if not path.exists():
        return {}
    found = _read_object(path)
    if not all(isinstance(reason, str) for reason in found.values()):
        raise CacheError(f"{path} is damaged: expected reasons as text; {_AGAIN}.")
    return found


def write_unreadable(folder: Path, unreadable: Mapping[str, str]) -> None:
    """Write what [`read_unreadable`] reads."""
    _write_json(folder / UNREADABLE_FILE, dict(unreadable))


def _open_shard(path: Path, shape: tuple[int, ...], info: Mapping[str, Any]) -> tuple[np.ndarray, np.memmap]:
    """Keys and values of a shard.

    Raises:
        CacheError: one is missing or damaged, or they do not fit each other, the shape or the dtype of the info.
    """
    dtype = DTYPES.get(str(info.get("dtype")))
    if dtype is None:
        raise CacheError(f"{path.parent / INFO_FILE} has the dtype {info.get('dtype')!r}, expected one of {[*DTYPES]}.")
    # Mapped, so that no file can claim more memory than it is long.
    keys = _open_array(path)
    if keys.dtype != np.uint64 or keys.ndim != 1:
        raise CacheError(f"{path} is damaged: {keys.dtype} of shape {keys.shape}, expected a row of uint64; {_AGAIN}.")
    values = _open_array(path.with_name(path.name.replace("keys-", "values-")))
    if values.dtype != dtype or values.shape != (len(keys), *shape):
        raise CacheError(
            f"{values.filename} is damaged: {values.dtype} of shape {values.shape}, expected {np.dtype(dtype)} of "
            f"shape {(len(keys), *shape)}; {_AGAIN}."
        )
    return np.array(keys), values


def _open_array(path: Path) -> np.memmap:
    try:
        # Unlike `np.load`, it takes neither pickles nor archives for arrays.
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError, MemoryError, SyntaxError, RecursionError) as error:
        raise CacheError(f"{path} is missing or damaged: {error}; {_AGAIN}.") from error


def _shape_in(folder: Path, *names: str) -> tuple[int, ...]:
    info = _read_info(folder)
    sizes: tuple[Any, ...] = tuple(info.get(name) for name in names)
    for name, size in zip(names, sizes, strict=True):
        if type(size) is not int or size < 1:
            raise CacheError(f"{folder / INFO_FILE} is damaged: `{name}` is {size!r}, expected a number; {_AGAIN}.")
    if math.prod(sizes) > 2**31:
        raise CacheError(f"{folder / INFO_FILE} is damaged: arrays of shape {sizes}; {_AGAIN}.")
    return sizes


def _read_info(folder: Path) -> dict[str, Any]:
    if not (folder / INFO_FILE).exists():
        raise CacheError(f"{folder} holds no cache ({INFO_FILE} is missing); make one with `gill precompute`.")
    info = _read_object(folder / INFO_FILE)
    if "vision_model" in info:
        info.setdefault("vision_pooling", "pooler")  # not in caches of older versions
    return info


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, CaptionFileError) as error:
        raise CacheError(f"{path} is damaged ({error}); {_AGAIN}.") from error
    if not isinstance(found, dict):
        raise CacheError(f"{path} is damaged: it holds no JSON object; {_AGAIN}.")
    return found


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with replace_file(path) as new:
        new.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _key_files(folder: Path) -> list[Path]:
    return sorted(folder / name for name in os.listdir(folder) if name.startswith("keys-") and name.endswith(".npy"))


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {found.get(name)!r} rather than {expected.get(name)!r}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    )


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


__all__ = [
    "DTYPES",
    "ArrayCache",
    "ArrayCacheWriter",
    "CacheError",
    "ImageFeatureCache",
    "TextTargetsCache",
    "feature_info",
    "read_unreadable",
    "target_info",
    "write_unreadable",
]
