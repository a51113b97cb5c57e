"""Pickled retrieval embeddings are read in every form the authors' code writes, and nothing in them is run."""

import builtins
import copyreg
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversion.original_files import ConversionError
from conversion.retrieval_pickles import find_retrieval_pickles, read_retrieval_pickles

PATHS = ["https://a.org/1.jpg", "b/2.png", "c/ü.png"]
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4) - 5

FORMS: dict[str, Any] = {
    "list of numpy vectors": list(VALUES),
    "numpy array": VALUES,
    "numpy array, by columns": np.asfortranarray(VALUES),
    "float16 numpy array": VALUES.astype(np.float16),
    "float64 numpy vectors": list(VALUES.astype(np.float64)),
    "big-endian numpy vectors": list(VALUES.astype(">f4")),
    "numpy object array of vectors": np.array([*list(VALUES), None], dtype=object)[:3],
    "list of torch vectors": [torch.from_numpy(row.copy()) for row in VALUES],
    "list of bfloat16 torch vectors": [torch.from_numpy(row.copy()).bfloat16() for row in VALUES],
    "list of torch vectors that are views": list(torch.from_numpy(VALUES)),
    "list of torch rows": list(torch.from_numpy(VALUES)[:, None]),
    "torch vectors with gradient": [torch.from_numpy(row.copy()).requires_grad_() for row in VALUES],
    "torch tensor": torch.from_numpy(VALUES),
    "torch tensor, transposed": torch.from_numpy(np.ascontiguousarray(VALUES.T)).T,
    "lists of numbers": VALUES.tolist(),
}


def write(path: Path, paths: Any, embeddings: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps({"paths": paths, "embeddings": embeddings}, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_embeddings_is_read(tmp_path: Path, form: str, protocol: int) -> None:
    read = read_retrieval_pickles([write(tmp_path / "cc3m.npy", PATHS, FORMS[form], protocol)])
    assert read.paths == PATHS
    assert read.embeddings.dtype == np.float32
    assert np.array_equal(read.embeddings, VALUES)


@pytest.mark.parametrize("paths", [tuple(PATHS), np.array(PATHS), np.array(PATHS, dtype=object)], ids=str)
def test_paths_may_be_a_tuple_or_an_array(tmp_path: Path, paths: Any) -> None:
    assert read_retrieval_pickles([write(tmp_path / "cc3m.npy", paths, VALUES)]).paths == PATHS


def test_several_files_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("cc3m_2.npy", "cc3m_1.npy", "cc3m_embeddings.pkl"):
        write(tmp_path / name, [f"{name}/{i}" for i in range(3)], VALUES + len(name))
    write(tmp_path / "other.npy", PATHS, VALUES)
    files = find_retrieval_pickles(tmp_path)
    assert [file.name for file in files] == ["cc3m_1.npy", "cc3m_2.npy", "cc3m_embeddings.pkl"]
    read = read_retrieval_pickles(files)
    assert read.paths == [f"{file.name}/{i}" for file in files for i in range(3)]
    assert read.embeddings.shape == (9, 4)
    assert np.array_equal(read.embeddings[6:], VALUES + len("cc3m_embeddings.pkl"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"no pickle at all", "cannot be read"),
        (pickle.dumps([1]), "no dict"),
        (pickle.dumps({"paths": []}), r"the keys \['paths'\]"),
        (pickle.dumps({"paths": PATHS, "embeddings": VALUES[:2]}), "3 paths but 2 embeddings"),
        (pickle.dumps({"paths": [1, 2, 3], "embeddings": VALUES}), r"paths\[0\] should be a string, found a int"),
        (pickle.dumps({"paths": "abc", "embeddings": VALUES}), "should be a list"),
        (pickle.dumps({"paths": PATHS, "embeddings": [VALUES[0], "x", VALUES[0]]}), r"embeddings\[1\]"),
        (pickle.dumps({"paths": PATHS, "embeddings": [VALUES[0], VALUES[0, :2], VALUES[0]]}), "2 dimensions.*4"),
        (pickle.dumps({"paths": PATHS, "embeddings": VALUES[:, None]}), "should be a list|vector of numbers"),
        (pickle.dumps({"paths": PATHS, "embeddings": VALUES * np.nan}), r"embeddings\[0\] holds NaN or infinite"),
        (pickle.dumps({"paths": PATHS, "embeddings": VALUES})[:-30], "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cc3m.npy"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=rf"cc3m\.npy.*({message})"):
        read_retrieval_pickles([path])


def test_files_written_by_numpy_or_torch_themselves_are_told_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "cc3m.npy", np.array({"paths": PATHS}, dtype=object), allow_pickle=True)
    with pytest.raises(ConversionError, match=r"written by numpy\.save; expected a pickle"):
        read_retrieval_pickles([tmp_path / "cc3m.npy"])
    torch.save({"paths": PATHS}, tmp_path / "cc3m.npy")
    with pytest.raises(ConversionError, match=r"written by torch\.save"):
        read_retrieval_pickles([tmp_path / "cc3m.npy"])


def test_files_of_different_widths_are_refused_with_both_numbers(tmp_path: Path) -> None:
    files = [write(tmp_path / "a", PATHS, VALUES), write(tmp_path / "b", PATHS, VALUES[:, :2])]
    with pytest.raises(ConversionError, match=r"2 dimensions.*4"):
        read_retrieval_pickles(files)


# --- pickles that try to run something -------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def text(value: str) -> bytes:
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


def global_(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def program(body: bytes) -> bytes:
    """A pickle in which `body` makes the embeddings."""
    return b"\x80\x04}(" + text("paths") + b"]" + text("embeddings") + body + b"u."


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


def refuse(tmp_path: Path, mark: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cc3m.npy"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=rf"cc3m\.npy.*{message}"):
        read_retrieval_pickles([path])
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch {}", r"(posix|nt)\.system"),
        (builtins.eval, "open({!r}, 'w')", r"eval"),
        (builtins.exec, "open({!r}, 'w')", r"exec"),
        (builtins.open, "{}", r"(io|_io|builtins)\.open"),
        (builtins.__import__, "{}", r"__import__"),
        (torch.load, "{}", r"torch\.serialization\.load"),
        (np.load, "{}", r"numpy\.load"),
        (np.fromfile, "{}", r"numpy.*\.fromfile"),
        (builtins.getattr, "{}", r"getattr"),
    ],
)
def test_functions_are_refused_by_name(
    tmp_path: Path, mark: Path, function: Any, argument: str, name: str, protocol: int
) -> None:
    content = {"paths": [], "embeddings": [Call(function, argument.format(str(mark)))]}
    refuse(tmp_path, mark, pickle.dumps(content, protocol=protocol), f"names `.*{name}`.*nothing in it was executed")


def test_a_chain_of_attributes_is_refused(tmp_path: Path, mark: Path) -> None:
    inner = Call(getattr, np.ndarray, "__class__")
    refuse(tmp_path, mark, pickle.dumps({"paths": [], "embeddings": Call(getattr, inner, "mro")}), r"getattr")
    # Protocol 4 looks dotted names up attribute by attribute.
    dotted = program(global_("numpy", "ndarray.__class__.__subclasses__") + b")R")
    refuse(tmp_path, mark, dotted, r"`numpy\.ndarray\.__class__\.__subclasses__`")


def test_a_pickle_in_the_bytes_of_a_tensor_is_not_run(tmp_path: Path, mark: Path) -> None:
    from torch.storage import _load_from_bytes

    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(Call(os.system, f"touch {mark}"), buffer, _use_new_zipfile_serialization=zipped)
        nested = Call(_load_from_bytes, buffer.getvalue())
        refuse(tmp_path, mark, pickle.dumps({"paths": [], "embeddings": nested}), r"posix\.system")
    nested = Call(_load_from_bytes, pickle.dumps(Call(os.system, f"touch {mark}")))
    refuse(tmp_path, mark, pickle.dumps({"paths": [], "embeddings": nested}), "cannot be read")


def test_bytes_of_a_tensor_that_hold_no_storage_are_refused(tmp_path: Path, mark: Path) -> None:
    from torch.storage import _load_from_bytes

    buffer = io.BytesIO()
    torch.save({"a": torch.ones(1)}, buffer)
    content = pickle.dumps({"paths": [], "embeddings": Call(_load_from_bytes, buffer.getvalue())})
    refuse(tmp_path, mark, content, "tensor storage")


def test_persistent_ids_are_refused(tmp_path: Path, mark: Path) -> None:
    refuse(tmp_path, mark, program(text("storage") + b"Q"), "persistent")


def test_names_registered_as_extensions_are_looked_up_too(tmp_path: Path, mark: Path) -> None:
    copyreg.add_extension("os", "system", 240)
    try:
        content = program(b"\x82\xf0" + text(f"touch {mark}") + b"\x85R")
        # An extension that was used before lies in a cache, past which no unpickler looks.
        assert pickle.loads(b"\x80\x04\x82\xf0.") is os.system
        refuse(tmp_path, mark, content, r"`os\.system`")
    finally:
        copyreg.remove_extension("os", "system", 240)


@pytest.mark.parametrize("name", [("numpy", "dtype"), ("numpy", "ndarray"), ("collections", "OrderedDict")])
def test_what_is_admitted_cannot_be_changed(tmp_path: Path, mark: Path, name: tuple[str, str]) -> None:
    # BUILD with a pair sets attributes: here those of the stand-in itself.
    state = b"N}(" + text("value") + global_("_codecs", "encode") + b"u\x86"
    refuse(tmp_path, mark, program(global_(*name) + state + b"b"), "set the state")
    write(tmp_path / "fine.npy", PATHS, VALUES)
    assert read_retrieval_pickles([tmp_path / "fine.npy"]).paths == PATHS


def test_admitted_names_are_no_classes_to_make_objects_of(tmp_path: Path, mark: Path) -> None:
    for name in (("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict")):
        refuse(tmp_path, mark, program(global_(*name) + b")\x81"), "NEWOBJ|class|type")
    refuse(tmp_path, mark, program(global_("numpy", "ndarray") + b")R"), "calls numpy.ndarray")


@pytest.mark.parametrize("code", ["O", "V8", "S4", "M8", "c8", "f4,O", "i4,(2,2)f8", "|O8"])
def test_dtypes_other_than_numbers_and_text_are_refused(tmp_path: Path, mark: Path, code: str) -> None:
    refuse(tmp_path, mark, pickle.dumps({"paths": [], "embeddings": Call(np.dtype, code)}), "numpy dtype")


def test_a_dtype_cannot_be_given_fields_or_another_size(tmp_path: Path, mark: Path) -> None:
    # numpy's own dtype takes this state, and would read the array's bytes as pointers to objects.
    for state in ((3, "<", None, ("a",), {"a": (1, 0)}, 8, 1, 0), (3, "<", (1, 2), None, None, 8, 1, 0)):
        body = global_("numpy", "dtype") + text("f8") + b"\x89\x88\x87R" + pickle.dumps(state, 4)[2:-1] + b"b"
        refuse(tmp_path, mark, program(body), "dtype state")


def test_an_array_of_objects_cannot_be_made_of_bytes(tmp_path: Path, mark: Path) -> None:
    body = global_("numpy.core.multiarray", "_reconstruct") + global_("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    dtype = global_("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    body += b"(K\x01K\x01\x85" + dtype + b"\x89C\x08AAAAAAAAtb"
    refuse(tmp_path, mark, program(body), "array of objects")


def test_a_shape_beyond_the_data_is_refused(tmp_path: Path, mark: Path) -> None:
    broken = pickle.dumps({"paths": PATHS, "embeddings": VALUES}).replace(b"K\x03K\x04\x86", b"K\x03K\x7f\x86")
    refuse(tmp_path, mark, broken, "array shape")
    tensor = torch.ones(4)
    stored = pickle.dumps({"paths": PATHS[:1], "embeddings": [tensor]}, protocol=4)
    broken = stored.replace(b"K\x04\x85", b"K\x7f\x85")
    assert broken != stored
    refuse(tmp_path, mark, broken, "cannot be read.*(out of bounds|storage)")


def test_text_is_encoded_as_bytes_and_nothing_else(tmp_path: Path, mark: Path) -> None:
    import _codecs

    for encoding in ("rot13", "zlib", "idna"):
        content = pickle.dumps({"paths": [], "embeddings": Call(_codecs.encode, "x", encoding)})
        refuse(tmp_path, mark, content, "encoded text")
