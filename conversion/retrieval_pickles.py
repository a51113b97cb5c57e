"""Reads the authors' pickled retrieval embeddings, `cc3m*.npy` and `cc3m_embeddings*.pkl`, without executing them.

A pickle is a program: it names functions, calls them, and sets the state of the objects that they return. Here, names
are looked up in a short list of replacements. The numpy and torch functions of these names are not used, since some of
them (the state of a dtype, a nested `torch.load`) could be made to run code. Each replacement checks its arguments and
returns an object that the rest of the pickle can neither change nor call.
"""

import copyreg
import io
import math
import mmap
import pickle
import zipfile
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from .file_limits import FileLimitError, check_archive, check_legacy_checkpoint, check_pickle, key_names
from .original_files import ConversionError, short_reason

PATTERNS = ("cc3m*.npy", "cc3m_embeddings*.pkl")
_EXPECTED = '{"paths": [...], "embeddings": [...]}'
# A pickle can use an object many times. The objects read from a file may take this many times its size.
_EXPANSION = 8
_SLACK_BYTES = 1 << 20
_BUDGET: ContextVar[list[int]] = ContextVar("budget")


@dataclass(frozen=True)
class RetrievalEmbeddings:
    """
    Images to retrieve from.

    Attributes:
        paths (`list[str]`): URLs or file names.
        embeddings (`np.ndarray`): float32 of shape `(num_images, retrieval_dim)`, not normalized.
        files (`tuple[Path, ...]`): The files that were read.
    """

    paths: list[str]
    embeddings: np.ndarray
    files: tuple[Path, ...]


def find_retrieval_pickles(folder: Path) -> list[Path]:
    """The retrieval pickles in `folder`, sorted by name; empty if there are none."""
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})


def read_retrieval_pickles(files: Sequence[Path]) -> RetrievalEmbeddings:
    """
    Read and concatenate pickles of `{"paths": [...], "embeddings": [...]}`.

    Raises:
        ConversionError: there are no files, or a file cannot be read, names a function that is not on the list, holds
            something else, or does not match the others; the message names the file and what was found in it.
    """
    if not files:
        raise ConversionError("There are no retrieval embeddings to read")
    parts = [(file, *_read_one(file)) for file in files]
    width = parts[0][2].shape[1]
    for file, _, embeddings in parts:
        if embeddings.shape[1] != width:
            raise ConversionError(
                f"{file} holds embeddings of {embeddings.shape[1]} dimensions, but {files[0]} of {width}"
            )
    paths = [path for _, part_paths, _ in parts for path in part_paths]
    return RetrievalEmbeddings(paths, np.concatenate([part for *_, part in parts]), tuple(files))


def _read_one(file: Path) -> tuple[list[str], np.ndarray]:
    content = _unpickle(file)
    if not isinstance(content, dict) or not {"paths", "embeddings"} <= content.keys():
        found = f"a dict with the keys {key_names(content)}" if isinstance(content, dict) else "no dict"
        raise ConversionError(f"{file} is not a pickle of {_EXPECTED}: it holds {found}")
    paths = _as_list(content["paths"], file, "paths")
    invalid = next((i for i, path in enumerate(paths) if not isinstance(path, str)), None)
    if invalid is not None:
        raise ConversionError(f"{file}: paths[{invalid}] should be a string, found a {_kind(paths[invalid])}")
    try:
        _spend(sum(map(len, paths)))
        embeddings = _as_matrix(content["embeddings"], file)
    except FileLimitError as error:
        raise ConversionError(f"{file} is refused: it holds {error}") from error
    if len(paths) != len(embeddings):
        raise ConversionError(f"{file} holds {len(paths)} paths but {len(embeddings)} embeddings")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ConversionError(f"{file}: embeddings[{int(np.argmin(finite))}] holds NaN or infinite values")
    return [str(path) for path in paths], embeddings


def _unpickle(file: Path) -> Any:
    if not file.is_file():
        raise ConversionError(f"{file} is missing; expected a pickle of {_EXPECTED}")
    with file.open("rb") as stream:
        start = stream.read(6)
        stream.seek(0)
        if not start:
            raise ConversionError(f"{file} is empty; expected a pickle of {_EXPECTED}")
        if start == b"\x93NUMPY" or start.startswith(b"PK"):
            writer = "numpy.save" if start.startswith(b"\x93") else "torch.save or numpy.savez"
            raise ConversionError(f"{file} was written by {writer}; expected a pickle of {_EXPECTED}")
        # Extension codes that are cached are the only names that are not looked up by `find_class`.
        copyreg.clear_extension_cache()
        size = file.stat().st_size
        _BUDGET.set([_EXPANSION * size + _SLACK_BYTES])
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check_pickle(content, size)
            return _RestrictedUnpickler(stream).load()
        except FileLimitError as error:
            raise ConversionError(f"{file} is refused: it holds {error}; nothing in it was executed") from error
        except _RefusedName as refusal:
            raise ConversionError(
                f"{file} is refused: it names `{refusal}`, which retrieval embeddings do not "
                "need; nothing in it was executed"
            ) from refusal
        except Exception as error:  # Broken pickles raise EOFError, KeyError, IndexError and many more.
            raise ConversionError(f"{file} cannot be read as a pickle of {_EXPECTED}: {short_reason(error)}") from error


class _RefusedName(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> "_Admitted":
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            raise _RefusedName(f"{module}.{name}")
        return admitted


class _Sealed:
    """An object that a pickle cannot change, not even by the opcode BUILD, which sets the state of objects."""

    __slots__ = ("value",)
    value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"the pickle tries to set `{name}` of a {type(self).__name__.strip('_')}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"the pickle tries to set the state of a {type(self).__name__.strip('_')}")


class _Admitted(_Sealed):
    """Replaces a global. An instance and not a class or function, so that it has no attributes to set."""

    __slots__ = ()
    value: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)


class _Dtype(_Sealed):
    """Replaces `numpy.dtype`: numbers, text, or objects. The value is a type string such as `<f4`."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, field names, fields, size, alignment, flags[, metadata])
        _expect(isinstance(state, tuple) and len(state) in (8, 9) and state[2:5] == (None, None, None), "dtype state")
        _expect(state[1] in ("<", ">", "|", "="), "byte order")
        object.__setattr__(self, "value", state[1] + self.value[1:])

    def numbers_or_text(self) -> "np.dtype[Any]":
        _expect(self.value[1] != "O", "array of objects")
        return np.dtype(self.value)


class _Array(_Sealed):
    """Replaces `numpy.ndarray`. The value is an array of numbers or text, or a list in place of an array of objects."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        _expect(isinstance(state, tuple) and len(state) == 5 and self.value is None, "array state")
        _, shape, dtype, is_fortran, data = state
        object.__setattr__(self, "value", _array_value(data, dtype, shape, bool(is_fortran)))


class _Tensor(_Sealed):
    """A `torch.Tensor` on the CPU."""

    __slots__ = ()


class _Storage(_Sealed):
    """A `torch.TypedStorage` on the CPU."""

    __slots__ = ()


def _spend(size: int) -> None:
    """Count the bytes of an object before it is created."""
    left = _BUDGET.get()
    left[0] -= size
    if left[0] < 0:
        raise FileLimitError("an object that is used many times")


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(f"{what} of a kind that retrieval embeddings do not need")


def _array_value(data: Any, dtype: Any, shape: Any, is_fortran: bool) -> "np.ndarray | list[Any]":
    _expect(isinstance(dtype, _Dtype) and isinstance(shape, tuple), "array")
    _expect(all(type(n) is int and n >= 0 for n in shape), "array shape")
    if dtype.value[1] == "O":
        # Its elements were read by this unpickler; a list can hold them as well as an array of references.
        _expect(isinstance(data, list) and len(shape) == 1 and len(data) == shape[0], "array of objects")
        _spend(len(data))
        return list(data)
    _expect(isinstance(data, bytes | bytearray), "array data")
    _spend(len(data))
    flat = np.frombuffer(bytes(data), dtype=dtype.numbers_or_text())
    _expect(flat.size == math.prod(shape), "array shape")
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _numpy_dtype(code: Any, *_flags: Any) -> _Dtype:
    is_number = code in {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "O8"}
    is_text = isinstance(code, str) and code[:1] == "U" and code[1:].isdecimal() and int(code[1:]) > 0
    _expect(is_number or is_text, f"numpy dtype {code!r}")
    return _Dtype("=" + code if code != "O8" else "|O")


def _numpy_reconstruct(kind: Any, *_empty_shape_and_type: Any) -> _Array:
    _expect(kind is _NDARRAY, "array class")
    return _Array(None)


def _numpy_frombuffer(data: Any, dtype: Any, shape: Any, order: Any, *axis_order: Any) -> _Array:
    _expect(order in ("C", "F") and all(axis is None for axis in axis_order), "array order")
    return _Array(_array_value(data, dtype, shape, order == "F"))


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    _expect(isinstance(dtype, _Dtype) and isinstance(data, bytes), "numpy scalar")
    (value,) = np.frombuffer(data, dtype=dtype.numbers_or_text())
    return value.item()


def _torch_load_from_bytes(data: Any) -> _Storage:
    # A tensor in a plain pickle holds its storage as the bytes of a `torch.save`. The torch function of this name calls
    # `torch.load` without `weights_only`, which would execute a pickle within the pickle.
    _expect(isinstance(data, bytes), "tensor data")
    _spend(len(data))
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            check_archive(io.BytesIO(data), len(data))
        else:
            check_legacy_checkpoint(io.BytesIO(data), len(data))
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FileLimitError:
        raise
    except Exception as error:  # As many kinds as for broken pickles.
        raise pickle.UnpicklingError(f"a tensor in it is refused: {short_reason(error)}") from error
    _expect(isinstance(storage, torch.storage.TypedStorage), "tensor storage")
    return _Storage(storage)


def _torch_rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_gradient_and_hooks: Any) -> _Tensor:
    _expect(isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple), "tensor")
    _expect(all(type(n) is int and n >= 0 for n in (offset, *size, *stride)), "tensor shape")
    flat = torch.empty(0, dtype=storage.value.dtype).set_(storage.value)
    # Strides can repeat elements.
    _expect(math.prod(size) <= flat.numel(), "tensor larger than its storage")
    return _Tensor(flat.as_strided(size, stride, offset))  # Raises beyond the end of the storage.


def _encode(text: Any, encoding: Any) -> bytes:
    # How pickle protocols 0 to 2 write bytes.
    _expect(isinstance(text, str) and encoding in ("latin1", "latin-1"), "encoded text")
    _spend(len(text))
    return str(text).encode("latin-1")


def _bytes(*data: Any) -> bytes:
    _expect(not data or (len(data) == 1 and isinstance(data[0], bytes)), "bytes")
    _spend(sum(map(len, data)))
    return b"".join(data)


def _ordered_dict(*items: Any) -> dict[Any, Any]:
    # Written for the hooks of a tensor, which embeddings do not have.
    _expect(not items, "dict")
    return {}


def _not_callable(*_arguments: Any) -> NoReturn:
    raise pickle.UnpicklingError("the pickle calls numpy.ndarray")


_NDARRAY = _Admitted(_not_callable)
_ADMITTED: dict[tuple[str, str], _Admitted] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Admitted(_numpy_dtype),
    **{
        (f"numpy.{core}.{module}", name): _Admitted(function)
        for core in ("core", "_core")  # before and since numpy 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _numpy_reconstruct),
            ("multiarray", "scalar", _numpy_scalar),
            ("numeric", "_frombuffer", _numpy_frombuffer),
        )
    },
    ("torch.storage", "_load_from_bytes"): _Admitted(_torch_load_from_bytes),
    ("torch._utils", "_rebuild_tensor_v2"): _Admitted(_torch_rebuild_tensor),
    ("collections", "OrderedDict"): _Admitted(_ordered_dict),
    ("_codecs", "encode"): _Admitted(_encode),
    ("builtins", "bytes"): _Admitted(_bytes),
    ("__builtin__", "bytes"): _Admitted(_bytes),
}


def _as_list(value: Any, file: Path, key: str) -> list[Any]:
    if isinstance(value, _Array):
        value = value.value.tolist() if isinstance(value.value, np.ndarray) else value.value
    if not isinstance(value, list | tuple):
        raise ConversionError(f'{file}: "{key}" should be a list or an array, found a {_kind(value)}')
    return list(value)


def _as_matrix(value: Any, file: Path) -> np.ndarray:
    """float32 of shape `(num_images, retrieval_dim)` from an array, a tensor, or a list of vectors."""
    whole = _as_numbers(value)
    if whole is not None and whole.ndim == 2:
        _spend(4 * whole.size)
        return whole.astype(np.float32)
    rows = _as_list(value, file, "embeddings")
    matrix = np.empty((0, 0), dtype=np.float32)
    for i, row in enumerate(rows):
        vector = _as_numbers(row)
        if vector is None or vector.size == 0 or vector.size != vector.shape[-1]:
            shape = "" if vector is None else f" of shape {vector.shape}"
            raise ConversionError(f"{file}: embeddings[{i}] should be a vector of numbers, found a {_kind(row)}{shape}")
        if i == 0:
            _spend(4 * len(rows) * vector.size)
            matrix = np.empty((len(rows), vector.size), dtype=np.float32)
        elif vector.size != matrix.shape[1]:
            raise ConversionError(
                f"{file}: embeddings[{i}] has {vector.size} dimensions, but embeddings[0] has {matrix.shape[1]}"
            )
        matrix[i] = vector.reshape(-1)
    return matrix


def _as_numbers(value: Any) -> np.ndarray | None:
    if isinstance(value, _Tensor):
        _spend(4 * value.value.numel())
        return np.asarray(value.value.float().numpy()) if value.value.ndim else None
    if isinstance(value, _Array) and isinstance(value.value, np.ndarray):
        return value.value if value.value.dtype.kind in "fiu" and value.value.ndim else None
    if isinstance(value, list):
        _spend(4 * len(value))
    if isinstance(value, list) and value and all(type(number) in (int, float) for number in value):
        return np.asarray(value, dtype=np.float32)
    return None


def _kind(value: Any) -> str:
    return type(value).__name__.strip("_").lower()
