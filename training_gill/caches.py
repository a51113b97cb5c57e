"""What training reads instead of running frozen models: targets and states of captions, features of images."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from modeling_gill import GillForConditionalGeneration, conditioning_gill
from modeling_gill.atomic_write_gill import replace_file
from modeling_gill.conditioning_gill import (
    NEGATIVES_FILE,
    ConditioningTensor,
    conditioning_fields,
    conditioning_of,
)
from modeling_gill.fingerprint_gill import fingerprint_weights
from modeling_gill.image_pooling_gill import ImagePooling
from pipeline_gill.frozen_models import full_path

from .array_cache import ArrayCache
from .array_shards import (
    AGAIN,
    INFO_FILE,
    CacheError,
    Column,
    check_made_with,
    part_folder,
    part_folders,
    read_info,
    read_object,
    write_json,
)

UNREADABLE_FILE = "unreadable.json"


class TextTargetsCache(ArrayCache):
    """
    Targets of the conditioning loss by caption, in the form of [`GillOutput.conditioning`] for one image; tensors that
    can be shorter than `length` are not padded.

    Args:
        cache (`Path`): Folder that `gill precompute` wrote.
        expected (`dict`, *optional*): [`target_info`] of the model that is trained. Scales are the model's affair.

    Attributes:
        tensors (`tuple[ConditioningTensor, ...]`): What the image generator takes.

    Raises:
        CacheError: there is none, or it is incomplete, damaged or made for something else.
    """

    FOLDER = "text_targets"

    def __init__(self, cache: Path, expected: Mapping[str, Any] | None = None) -> None:
        folder = Path(cache) / self.FOLDER
        self.tensors = _conditioning_in(read_info(folder), folder / INFO_FILE)
        super().__init__(folder, target_columns(self.tensors), expected)

    def __getitem__(self, caption: str) -> dict[str, torch.Tensor]:
        try:
            arrays = self.read(caption)
        except KeyError:
            raise CacheError(
                f"The cache {self.folder} has no target for the caption {caption!r:.80}: it was made for other data, "
                "or another cut of them; run `gill precompute` over these."
            ) from None
        target: dict[str, torch.Tensor] = {}
        for tensor in self.tensors:
            target[tensor.name] = values = arrays[tensor.name if tensor.name in arrays else "values"]
            if tensor.mask_key is not None:
                stored = arrays.get(tensor.mask_key)
                target[tensor.mask_key] = torch.ones(len(values), dtype=torch.bool) if stored is None else stored > 0
        return target

    def _comparable(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return without_scales(super()._comparable(info))


class ImageFeatureCache(ArrayCache):
    """
    Features of images by the key of an example: float32 of shape `(vision_dim,)`, or of patches `(num_patches,
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
        info = read_info(folder)
        names = [name for name in ("num_visual_tokens", "vision_dim") if name in info or name == "vision_dim"]
        for name in names:
            if type(info.get(name)) is not int or info[name] < 1:
                found = info.get(name)
                raise CacheError(f"{folder / INFO_FILE} is damaged: `{name}` is {found!r}, expected a number; {AGAIN}.")
        super().__init__(folder, [Column(tuple(info[name] for name in names))], expected)
        self.unreadable = {key: why for part in part_folders(folder) for key, why in read_unreadable(part).items()}

    def __getitem__(self, key: str) -> torch.Tensor:
        try:
            return self.read(key)["values"].float()
        except KeyError:
            raise CacheError(
                f"The cache {self.folder} has no image {key!r:.80}: it was made for other data, or another cut of "
                "them; run `gill precompute --image-features` over these."
            ) from None


class LanguageStatesCache(ArrayCache):
    """
    Hidden states of the language model at the `[IMG]` tokens that follow a caption, float32 of shape
    `(num_image_output_tokens, embedding_dim)`, with `img_state_layers` one for each layer.

    Args:
        cache (`Path`): Folder that `gill precompute --language-states` wrote.
        expected (`dict`, *optional*): [`states_info`] of the model that is trained.

    Raises:
        CacheError: there is none, or it is incomplete, damaged or made for something else.
    """

    FOLDER = "language_states"

    def __init__(self, cache: Path, expected: Mapping[str, Any] | None = None) -> None:
        folder = Path(cache) / self.FOLDER
        shape = read_info(folder).get("shape")
        if not isinstance(shape, list) or not shape or any(type(size) is not int or size < 1 for size in shape):
            raise CacheError(
                f"{folder / INFO_FILE} is damaged: `shape` is {shape!r}, expected a list of numbers; {AGAIN}."
            )
        super().__init__(folder, [Column(tuple(shape))], expected)

    def __getitem__(self, caption: str) -> torch.Tensor:
        try:
            return self.read(caption)["values"].float()
        except KeyError:
            raise CacheError(
                f"The cache {self.folder} has no states for the caption {caption!r:.80}: it was made for other data, "
                "or another cut of them; run `gill precompute --language-states` over these."
            ) from None


def states_info(gill: GillForConditionalGeneration, max_length: int) -> dict[str, Any]:
    """What a cache of states says about itself; every part must be that of the model that is trained."""
    config = gill.config
    # Equal for rows that were loaded in float32 and in bfloat16.
    rows = gill.img_embeddings.weight.detach().cpu().to(torch.bfloat16).view(torch.int16).numpy()
    name = config.language_model_id and full_path(config.language_model_id)
    if name is None:
        weights = [weight for _, weight in sorted(gill.language_model.named_parameters())]
        name = f"weights {fingerprint_weights({'language_model': weights})['digest']}"
    layers = config.img_state_layers
    shape = [config.num_image_output_tokens, *([] if layers is None else [len(layers)]), config.embedding_dim]
    return {
        **({} if layers is None else {"img_state_layers": layers}),
        "language_model": name,
        "language_model_revision": config.language_model_revision or "main",
        "img_rows": hashlib.sha256(rows.tobytes()).hexdigest()[:16],
        "shape": shape,
        "max_length": max_length,
    }


def target_info(
    generator_id: str | None, revision: str | None, tensors: Sequence[ConditioningTensor]
) -> dict[str, Any]:
    """What a cache of targets says about itself; every part must be that of the model that is trained."""
    return {
        "image_generator": generator_id and full_path(generator_id),
        "image_generator_revision": revision or "main",
        **conditioning_fields(tensors),
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


def read_cached_conditioning(
    cache: Path, generator_id: str | None, revision: str | None
) -> tuple[ConditioningTensor, ...]:
    """
    The specification of a cache's targets, from its description alone.

    Raises:
        CacheError: there is no cache, its description is damaged, or it is of another image generator.
    """
    folder = Path(cache) / TextTargetsCache.FOLDER
    info = read_info(folder)
    tensors = _conditioning_in(info, folder / INFO_FILE)
    check_made_with(folder, info, target_info(generator_id, revision, tensors))
    return tensors


def begun_conditioning(
    cache: Path, tensors: Sequence[ConditioningTensor], part: tuple[int, int]
) -> tuple[ConditioningTensor, ...] | None:
    """`tensors` with the scales that a cache was begun with, by this process or another; `None` where none was."""
    folder = Path(cache) / TextTargetsCache.FOLDER
    for path in (part_folder(folder, part) / INFO_FILE, *sorted(folder.glob(f"part-*/{INFO_FILE}"))):
        if path.exists():
            found = _conditioning_in(read_object(path), path)
            if tuple(replace(tensor, scale=None) for tensor in found) == tuple(tensors):
                return found
    return None


def _conditioning_in(info: Mapping[str, Any], path: Path) -> tuple[ConditioningTensor, ...]:
    try:
        tensors = conditioning_of(info)
        if sum(tensor.num_positions * tensor.dim for tensor in tensors) > 2**31:
            raise ValueError("its tensors are too large.")
    except ValueError as error:
        raise CacheError(f"{path} is damaged: {error} {AGAIN[0].upper()}{AGAIN[1:]}.") from error
    return tensors


def target_columns(tensors: Sequence[ConditioningTensor]) -> list[Column]:
    """How targets are stored: one plain tensor as `values`, others by their names."""
    if "conditioning" not in conditioning_fields(tensors):
        return [Column((tensors[0].num_positions, tensors[0].dim))]
    columns = []
    for tensor in tensors:
        shape = (tensor.dim,) if tensor.length is None else (tensor.length, tensor.dim)
        is_ragged = tensor.mask_key is not None and not tensor.reads_padding
        columns.append(Column(shape, tensor.name, is_ragged, tensor.least_length))
        if tensor.mask_key is not None and not is_ragged:
            # What the mask hides is read too, so all of it is stored.
            columns.append(Column(shape[:1], tensor.mask_key))
    return columns


def without_scales(info: Mapping[str, Any]) -> dict[str, Any]:
    """A description without the units of its tensors, which may be measured on other captions."""
    entries = info.get("conditioning")
    if not entries:
        return dict(info)
    return {**info, "conditioning": [{n: v for n, v in entry.items() if n != "scale"} for entry in entries]}


def write_negatives(cache: Path, negatives: Mapping[str, torch.Tensor]) -> None:
    """Write what the image generator guides away from, beside the targets."""
    with replace_file(Path(cache) / TextTargetsCache.FOLDER / NEGATIVES_FILE) as path:
        conditioning_gill.write_negatives(path, negatives)


def read_negatives(cache: Path) -> dict[str, torch.Tensor] | None:
    """What [`write_negatives`] wrote, or `None`.

    Raises:
        CacheError: the file is damaged.
    """
    folder = Path(cache) / TextTargetsCache.FOLDER
    try:
        return conditioning_gill.read_negatives(folder)
    except (OSError, SafetensorError) as error:
        raise CacheError(f"{folder / NEGATIVES_FILE} is damaged: {error}; {AGAIN}.") from error


def read_unreadable(folder: Path) -> dict[str, str]:
    """Why images of a cache have no feature, by their keys.

    Raises:
        CacheError: the file is damaged.
    """
    path = folder / UNREADABLE_FILE
    if not path.exists():
        return {}
    found = read_object(path)
    if not all(isinstance(reason, str) for reason in found.values()):
        raise CacheError(f"{path} is damaged: expected reasons as text; {AGAIN}.")
    return found


def write_unreadable(folder: Path, unreadable: Mapping[str, str]) -> None:
    """Write what [`read_unreadable`] reads."""
    write_json(folder / UNREADABLE_FILE, dict(unreadable))


__all__ = [
    "CacheError",
    "ImageFeatureCache",
    "LanguageStatesCache",
    "TextTargetsCache",
    "begun_conditioning",
    "feature_info",
    "read_cached_conditioning",
    "read_negatives",
    "read_unreadable",
    "states_info",
    "target_columns",
    "target_info",
    "without_scales",
    "write_negatives",
    "write_unreadable",
]
