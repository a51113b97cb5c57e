"""Pooled features of images, computed once: the image encoder is frozen, and they never change."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from .keyed_arrays import CacheError, KeyedArrays, refuse_other_info
from .text_targets_cache import same_name

FOLDER = "image_features"
UNREADABLE_FILE = "unreadable.json"


class ImageFeatureCache:
    """
    Image features, by the key of an example.

    Args:
        cache (`Path`): Folder that `python -m training_gill.precompute --image-features` wrote.

    Attributes:
        unreadable (`dict[str, str]`): Why images have no feature, by the key of their example.

    Raises:
        CacheError: there is none in it, or not a whole one.
    """

    def __init__(self, cache: Path) -> None:
        folder = Path(cache) / FOLDER
        self._arrays = KeyedArrays(folder)
        said = folder / UNREADABLE_FILE
        self.unreadable: dict[str, str] = json.loads(said.read_text(encoding="utf-8")) if said.exists() else {}

    def __getitem__(self, key: str) -> torch.Tensor:
        """Feature `(v,)`, float32, of an example's image.

        Raises:
            CacheError: an example that was not there when the cache was made.
        """
        try:
            return torch.from_numpy(self._arrays[key]).float()
        except KeyError:
            raise CacheError(
                f"The cache {self._arrays.folder} has no image {key!r:.80}: it was made for other data, or another "
                "cut of them; run `python -m training_gill.precompute --image-features` over these."
            ) from None

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    @staticmethod
    def exists(cache: Path) -> bool:
        """Whether a cache was made with `--image-features`."""
        return (Path(cache) / FOLDER).is_dir()

    def check(self, vision_model_id: str | None, revision: str | None, width: int) -> None:
        """
        Raises:
            CacheError: made with another image encoder.
        """
        refuse_other_info(self._arrays.folder, self._arrays.info, feature_info(vision_model_id, revision, width))


def feature_info(vision_model_id: str | None, revision: str | None, width: int) -> dict[str, Any]:
    """What a cache says about itself; every part of it must be that of the model that is trained."""
    return {
        "vision_model": same_name(vision_model_id),
        "vision_model_revision": revision or "main",
        "vision_dim": width,
    }


def write_unreadable(cache: Path, unreadable: dict[str, str]) -> None:
    """Remember why images have no feature, besides those that are remembered already."""
    place = Path(cache) / FOLDER / UNREADABLE_FILE
    if place.exists():
        unreadable = {**json.loads(place.read_text(encoding="utf-8")), **unreadable}
    beside = place.with_name(f".{UNREADABLE_FILE}")
    beside.write_text(json.dumps(unreadable, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, place)


__all__ = ["FOLDER", "ImageFeatureCache", "feature_info", "write_unreadable"]
