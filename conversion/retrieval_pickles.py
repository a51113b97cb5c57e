"""Reads the authors' pickled retrieval embeddings, `cc3m*.npy` and `cc3m_embeddings*.pkl`, running nothing in them.

A pickle is a program: it names functions, calls them and sets the state of what they return. Here every name is looked
up in a short list of stand-ins written for the purpose; the real numpy and torch functions of those names are never
handed out, because some of them (a dtype's state, a nested `torch.load`) are programs' doors again. Each stand-in
checks its arguments, and what it returns is sealed: nothing later in the pickle can change or call it.
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
# An object of a pickle can be used many times over. What is made of a file may take this many times its size.
_EXPANSION = 8
_SLACK_BYTES = 1 << 20
_BUDGET: ContextVar[list[int]] = ContextVar("budget")


@dataclass(frozen=True)
class RetrievalEmbeddings:
    """Images to retrieve from.

    Attributes:
        paths: N addresses or file names.
        embeddings: float32 array of shape (N, p), not normalised.
        files: what they were read from.
    """

    paths: list[str]
    embeddings: np.ndarray
    files: tuple[Path, ...]


def find_retrieval_pickles(folder: Path) -> list[Path]:
    """The retrieval pickles in `folder`, in the order of their names; none is no error."""
    return sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})


def read_retrieval_pickles(files: Sequence[Path]) -> RetrievalEmbeddings:
    """Reads and concatenates pickles of `{"paths": [...], "embeddings": [...]}`.

    Raises:
        ConversionError: no files, or one that cannot be read, names anything outside of the short list, is of another
            make, or does not match the others; names the file and what was found in it.
    """
    if not files:
        raise ConversionError("no retrieval embeddings to read")
    parts = [(file, *_read_one(file)) for file in files]
    width = parts[0][2].shape[1]
    for file, _, embeddings in parts:
        if embeddings.shape[1] != width:
            raise ConversionError(
                f"{file} holds embeddings {embeddings.shape[1]} wide, but those of {files[0]} are {width} wide"
            )
    paths = [path for _, part_paths, _ in parts for path in part_paths]
    return RetrievalEmbeddings(paths, np.concatenate([part for *_, part in parts]), tuple(files))


def _read_one(file: Path) -> tuple[list[str], np.ndarray]:
    content = _unpickle(file)
    if not isinstance(content, dict) or not {"paths", "embeddings"} <= content.keys():
        found = f"a dict with the keys {key_names(content)}" if isinstance(content, dict) else "no dict"
        raise ConversionError(f"{file} is not a pickle of {_EXPECTED}: it holds {found}")
    paths = _as_list(content["paths"], file, "paths")
    strange = next((i for i, path in enumerate(paths) if not isinstance(path, str)), None)
    if strange is not None:
        raise ConversionError(f"{file}: paths[{strange}] is no text but a {_kind(paths[strange])}")
    try:
        _spend(sum(map(len, paths)))
        embeddings = _as_matrix(content["embeddings"], file)
    except FileLimitError as error:
        raise ConversionError(f"{file} is refused: it holds {error}") from error
    if len(paths) != len(embeddings):
        raise ConversionError(f"{file} holds {len(paths)} paths but {len(embeddings)} embeddings")
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise ConversionError(f"{file}: embeddings[{int(np.argmin(finite))}] holds values that are no finite numbers")
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
        # The only names that reach an unpickler without `find_class` are those cached by extension code.
        copyreg.clear_extension_cache()
        size = file.stat().st_size
        _BUDGET.set([_EXPANSION * size + _SLACK_BYTES])
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                check_pickle(content, size)
            return _RestrictedUnpickler(stream).load()
        except FileLimitError as error:
            raise ConversionError(f"{file} is refused: it holds {error}; nothing in it was run") from error
        except _RefusedName as refusal:
            raise ConversionError(
                f"{file} is refused: it names `{refusal}`, which retrieval embeddings have no use for; "
                "nothing in it was run"
            ) from refusal
        except Exception as error:  # A broken pickle raises nearly anything: EOFError, KeyError, IndexError, ...
            raise ConversionError(f"{file} cannot be read as a pickle of {_EXPECTED}: {short_reason(error)}") from error


class _RefusedName(pickle.UnpicklingError):
    """A name that is not on the list."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> "_Admitted":
        admitted = _ADMITTED.get((module, name))
        if admitted is None:
            raise _RefusedName(f"{module}.{name}")
        return admitted


class _Sealed:
    """Anything that a pickle gets to hold beside plain values. The opcode BUILD, which sets state, finds it shut."""

    __slots__ = ("value",)
    value: Any

    def __init__(self, value: Any) -> None:
        object.__setattr__(self, "value", value)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"the pickle tries to set `{name}` of a {type(self).__name__.strip('_')}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"the pickle tries to set the state of a {type(self).__name__.strip('_')}")


class _Admitted(_Sealed):
    """A stand-in for a global. An instance rather than a class or function, so that it has no attributes to set."""

    __slots__ = ()
    value: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.value(*arguments)


class _Dtype(_Sealed):
    """`numpy.dtype`: numbers, text, or the references of an object array. The value is a type string as `<f4`."""

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
    """A `numpy.ndarray`. The value is one of numbers or text, or a list for an array of objects."""

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
    """Count bytes that are made of the file, before they are made."""
    left = _BUDGET.get()
    left[0] -= size
    if left[0] < 0:
        raise FileLimitError("one object many times over")


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(f"{what} of a kind that retrieval embeddings have no use for")


def _array_value(data: Any, dtype: Any, shape: Any, is_fortran: bool) -> "np.ndarray | list[Any]":
    _expect(isinstance(dtype, _Dtype) and isinstance(shape, tuple), "array")
    _expect(all(type(n) is int and n >= 0 for n in shape), "array shape")
    if dtype.value[1] == "O":
        # Its elements went through this unpickler one by one; a list holds them as well as numpy's references would.
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
    # A tensor pickled by plain `pickle.dump` holds its storage as the bytes of a `torch.save`, for which torch's own
    # function of this name calls `torch.load` without `weights_only`: the way in for a pickle within the pickle.
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
    except Exception as error:  # As many kinds as broken pickles have.
        raise pickle.UnpicklingError(f"a tensor in it is refused: {short_reason(error)}") from error
    _expect(isinstance(storage, torch.storage.TypedStorage), "tensor storage")
    return _Storage(storage)


def _torch_rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_gradient_and_hooks: Any) -> _Tensor:
    _expect(isinstance(storage, _Storage) and isinstance(size, tuple) and isinstance(stride, tuple), "tensor")
    _expect(all(type(n) is int and n >= 0 for n in (offset, *size, *stride)), "tensor shape")
    flat = torch.empty(0, dtype=storage.value.dtype).set_(storage.value)
    # Strides may also show one element many times.
    _expect(math.prod(size) <= flat.numel(), "tensor larger than its storage")
    return _Tensor(flat.as_strided(size, stride, offset))  # Raises where it would reach beyond the storage.


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
    # Only ever written for a tensor's hooks, of which embeddings have none.
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
    """float32 array of shape (N, p) from an array, a tensor, or a list of vectors of shape (p,) or (1, p)."""
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
                f"{file}: embeddings[{i}] is {vector.size} wide, but embeddings[0] is {matrix.shape[1]} wide"
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
