"""Checkpoints that are there whole or not at all, whenever the process dies."""

import contextlib
import os
import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

# Begins unlike `checkpoint-`, so that nothing takes what lies in it for a checkpoint.
STAGING = ".unfinished"
_REPLACED = ".replaced-"


def staging_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Where a checkpoint is written before it takes its place in `output_dir`, on the same file system."""
    return Path(output_dir) / STAGING


def clear_staging(output_dir: str | os.PathLike[str]) -> None:
    """Remove what a run that died has left."""
    shutil.rmtree(staging_folder(output_dir), ignore_errors=True)
    for left in Path(output_dir).glob(f"{_REPLACED}*"):
        shutil.rmtree(left, ignore_errors=True)


def put_in_place(output_dir: str | os.PathLike[str], name: str) -> Path:
    """Move a checkpoint that is whole from the staging folder to its place; returns the place."""
    place, staged = Path(output_dir) / name, staging_folder(output_dir) / name
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if place.exists():
        replaced = Path(output_dir) / f"{_REPLACED}{name}"
        shutil.rmtree(replaced, ignore_errors=True)
        place.rename(replaced)
        staged.rename(place)
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        staged.rename(place)
    with contextlib.suppress(OSError):
        staged.parent.rmdir()
    return place


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The checkpoint with the highest step in a folder, or `None`."""
    return get_last_checkpoint(str(output_dir)) if os.path.isdir(output_dir) else None


__all__ = ["STAGING", "clear_staging", "last_checkpoint", "put_in_place", "staging_folder"]
