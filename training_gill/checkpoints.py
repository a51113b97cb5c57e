"""Checkpoints of a training: whole or not there, whenever the process dies; and what is read from them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import TrainerState
from transformers.trainer_utils import get_last_checkpoint

from modeling_gill import GillForConditionalGeneration
from modeling_gill.atomic_write_gill import replace_folder
from modeling_gill.pretrained_gill import BACKBONE_PREFIXES

# Does not start like `checkpoint-`, so that nothing takes what is in it for a checkpoint.
STAGING = ".unfinished"
_LOCK = ".training.lock"


def staging_folder(output_dir: str | os.PathLike[str]) -> Path:
    """Where all processes write a checkpoint before it takes its place in `output_dir`, on the same file system."""
    return Path(output_dir) / STAGING


def clear_staging(output_dir: str | os.PathLike[str]) -> None:
    """Remove what a killed run has left."""
    shutil.rmtree(staging_folder(output_dir), ignore_errors=True)


def put_in_place(output_dir: str | os.PathLike[str], name: str) -> Path:
    """Move a complete checkpoint from the staging folder to its place, in one step; returns the place."""
    place, staged = Path(output_dir) / name, staging_folder(output_dir) / name
    with replace_folder(place) as new:
        new.rmdir()
        staged.rename(new)
    with suppress(OSError):
        staged.parent.rmdir()
    return place


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The checkpoint with the highest step in a folder, or `None`."""
    return get_last_checkpoint(str(output_dir)) if os.path.isdir(output_dir) else None


def read_state(checkpoint: str | os.PathLike[str]) -> TrainerState:
    """
    The Trainer's state in a checkpoint.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = Path(checkpoint) / "trainer_state.json"
    try:
        return TrainerState.load_from_json(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The checkpoint {checkpoint} has no readable {path.name}: {error}") from error


def load_adapters(gill: GillForConditionalGeneration, folder: Path) -> None:
    """
    Load the trained weights of a checkpoint into a model that has its backbones.

    Raises:
        ValueError: weights that are damaged, or of other sizes or kinds; the first that differs is named.
    """
    try:
        tensors = load_file(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The checkpoint {folder} cannot be read: {error}") from error
    # Those of frozen models that have repositories of their own are not saved.
    left_out = set(gill._keys_to_ignore_on_save or ())
    own = {name: value for name, value in gill.state_dict().items() if name not in left_out}
    kept = {name: value for name, value in tensors.items() if name not in left_out}
    if "logit_scale" in own and "logit_scale" in kept and kept["logit_scale"].numel() == 1:
        tensors["logit_scale"] = kept["logit_scale"] = kept["logit_scale"].reshape(own["logit_scale"].shape)
    saved = {own[name].data_ptr() for name in kept if name in own}
    for name in sorted({*own, *kept}):
        if name not in kept and name.startswith(BACKBONE_PREFIXES) and own[name].data_ptr() in saved:
            continue  # tied to a weight that was saved
        found, expected = (tuple(weights[name].shape) if name in weights else None for weights in (kept, own))
        if found != expected:
            raise ValueError(
                f"The checkpoint {folder} has {name} of shape {found}, the recipe makes it {expected}; resume with the "
                "recipe that the checkpoint was made with, or write to another folder."
            )
    for name, weight in kept.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"The checkpoint {folder} has NaN or infinity in {name}; resume from an earlier one.")
    gill.load_state_dict(tensors, strict=False)
    if gill.config.language_model_lora is not None:
        from peft import set_peft_model_state_dict

        lora = folder / gill.config.language_model_lora / "adapter_model.safetensors"
        set_peft_model_state_dict(gill.language_model, load_file(lora))


@contextmanager
def only_writer(output_dir: str | os.PathLike[str]) -> Iterator[None]:
    """
    Be the only training that writes to a folder.

    Raises:
        BlockingIOError: another process trains into it.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(f"Another process is training into {str(output_dir)!r}; wait until it is done.") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / _LOCK).unlink()
        lock.release()


__all__ = [
    "STAGING",
    "clear_staging",
    "last_checkpoint",
    "load_adapters",
    "only_writer",
    "put_in_place",
    "read_state",
    "staging_folder",
]
