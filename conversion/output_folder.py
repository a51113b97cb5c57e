"""A folder that appears complete or not at all."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from modeling_gill.atomic_write_gill import replace_folder

from .original_files import ConversionError


@contextlib.contextmanager
def output_folder(out: Path, overwrite: bool, inputs: Iterable[Path] = ()) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its place if the block ends well, and vanishes if it does not.

    It lies as deep as `out`, so that relative paths written in it stay true.

    Args:
        out: where the result goes; its parents are made.
        overwrite: whether a folder that is there and not empty may be replaced, as a whole.
        inputs: folders and files that are read and must not be replaced.

    Raises:
        ConversionError: `out` is a file, is not empty and may not be replaced, or holds one of the inputs.
    """
    _check_replaceable(out.absolute(), overwrite, inputs)
    with replace_folder(out) as folder:
        yield folder


def _check_replaceable(out: Path, overwrite: bool, inputs: Iterable[Path]) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConversionError(f"{out} exists and is no folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise ConversionError(f"{out} exists and is not empty; --overwrite replaces it")
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            raise ConversionError(f"{out} cannot be replaced: the input {path} lies in it")
