"""The output folder of a conversion, which is complete or not there."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from modeling_gill.atomic_write_gill import replace_folder

from .original_files import ConversionError


@contextlib.contextmanager
def output_folder(out: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """
    A temporary folder next to `out` that replaces it, or is deleted if the block raises.

    It has the same parent as `out`, so that relative paths written in it stay valid.

    Args:
        out (`Path`): The output folder; its parents are created.
        overwrite (`bool`): Whether a folder that is not empty may be replaced.
        inputs (`Iterable[Path]`): Folders and files that are read and must not be replaced.

    Raises:
        ConversionError: `out` is a file, is not empty and may not be replaced, or holds an input.
    """
    _check_replaceable(out.absolute(), overwrite, inputs)
    with replace_folder(out) as folder:
        yield folder


def _check_replaceable(out: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConversionError(f"{out} exists and is not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConversionError(f"{out} exists and is not empty; --overwrite replaces it")
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            raise ConversionError(f"{out} cannot be replaced: the input {path} is in it")
