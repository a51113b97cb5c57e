"""What the image generator's own text encoder makes of captions, computed once, ahead of training."""

from pathlib import Path
from typing import Any

import torch

from .keyed_arrays import CacheError, KeyedArrays, refuse_other_info

FOLDER = "text_targets"


class TextTargetsCache:
    """
    Targets of the conditioning loss, by caption.

    Args:
        cache (`Path`): Folder that `python -m training_gill.precompute` wrote.

    Raises:
        CacheError: there is none in it, or not a whole one.
    """

    def __init__(self, cache: Path) -> None:
        self._arrays = KeyedArrays(Path(cache) / FOLDER)

    def __getitem__(self, caption: str) -> torch.Tensor:
        """Target `(L, c)`, float32, of a caption.

        Raises:
            CacheError: a caption that was not there when the cache was made.
        """
        try:
            return torch.from_numpy(self._arrays[caption]).float()
        except KeyError:
            raise CacheError(
                f"The cache {self._arrays.folder} has no target for the caption {caption!r:.80}: it was made for "
                "other data, or another cut of them; run `python -m training_gill.precompute` over these."
            ) from None

    def __contains__(self, caption: str) -> bool:
        return caption in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def check(self, generator_id: str | None, revision: str | None, length: int, width: int) -> None:
        """
        Raises:
            CacheError: made with another generator, or cut to another length or width than the model's conditioning.
        """
        refuse_other_info(self._arrays.folder, self._arrays.info, target_info(generator_id, revision, length, width))


def target_info(generator_id: str | None, revision: str | None, length: int, width: int) -> dict[str, Any]:
    """What a cache says about itself; every part of it must be that of the model that is trained."""
    return {
        "image_generator": same_name(generator_id),
        "image_generator_revision": revision or "main",
        "conditioning_length": length,
        "conditioning_dim": width,
    }


def same_name(name: str | None) -> str | None:
    """A folder by its full path, so that it is the same from wherever it is named; a Hub name as it is."""
    return str(Path(name).resolve()) if name is not None and Path(name).is_dir() else name


__all__ = ["FOLDER", "TextTargetsCache", "same_name", "target_info"]
