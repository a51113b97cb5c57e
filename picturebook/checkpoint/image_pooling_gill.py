"""The feature that is made of an image encoder's states."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

VISION_POOLINGS = ("pooler", "cls", "mean", "image_embeds", "patches")


@dataclass(frozen=True)
class ImagePooling:
    """
    Which feature of an image is read, see `vision_pooling` in [`GillConfig`].

    Attributes:
        kind (`str`): One of [`VISION_POOLINGS`].
        layer (`int`): -1 for the encoder's `last_hidden_state`, otherwise an index into its `hidden_states`.
        num_tokens (`int`, *optional*): Number of vectors that the patches are averaged to, by default all patches.
    """

    kind: str = "pooler"
    layer: int = -1
    num_tokens: int | None = None

    def __str__(self) -> str:
        name = f"{self.num_tokens or 'all'} patches" if self.kind == "patches" else self.kind
        return name if self.layer == -1 else f"{name} of layer {self.layer}"


def pool_states(
    states: torch.Tensor,
    pooling: ImagePooling,
    model: PreTrainedModel,
    pixel_values: torch.Tensor,
    spatial_shapes: torch.Tensor | None,
) -> torch.Tensor:
    """Make the feature of states of shape `(num_images, num_states, hidden_size)`, or of a feature map."""
    name = type(model).__name__
    if states.dim() == 4:
        # Channels come first, but for the few encoders whose maps are as high as wide and end with another number.
        if states.shape[1] == states.shape[2] != states.shape[3]:
            states = states.permute(0, 3, 1, 2)
        grid: tuple[int, int] | None = (states.shape[2], states.shape[3])
        states = states.flatten(2).transpose(1, 2)
    elif spatial_shapes is not None:
        if pooling.kind == "cls":
            raise ValueError(_no_class_token(name))
        grids = [(int(rows), int(columns)) for rows, columns in spatial_shapes.tolist()]
        pooled = [
            _pool_patches(item[None, : math.prod(grid)], grid, pooling, name)
            for item, grid in zip(states, grids, strict=True)
        ]
        if len({item.shape[1:] for item in pooled}) > 1:
            raise ValueError(
                f"The image encoder {name} gives images of different shapes different numbers of patches; expected "
                "`num_visual_tokens` (with a resampler, `visual_resampler_num_patches`), a number that all are "
                "averaged to."
            )
        return torch.cat(pooled)
    else:
        grid = _grid_of_states(model.config, states.shape[1], pixel_values)
    num_patches = states.shape[1] if grid is None else math.prod(grid)
    if pooling.kind == "cls":
        if num_patches == states.shape[1]:
            raise ValueError(_no_class_token(name))
        return states[:, 0]
    return _pool_patches(states[:, states.shape[1] - num_patches :], grid, pooling, name)


def _grid_of_states(config: PretrainedConfig, num_states: int, pixel_values: torch.Tensor) -> tuple[int, int] | None:
    """Rows and columns of an encoder's last states; those that are left over come first and are no patches."""
    grid = patch_grid(config, pixel_values)
    if grid is not None and 0 < math.prod(grid) <= num_states:
        return grid
    # Encoders that merge patches: as many as fill a grid of the image's proportions.
    height, width = pixel_values.shape[-2:]
    for num_patches in range(num_states, max(0, num_states - 2 - getattr(config, "num_register_tokens", 0)), -1):
        rows = max(1, round(math.sqrt(num_patches * height / width)))
        columns = num_patches // rows
        if rows * columns == num_patches and abs(rows * width / height - columns) < 1:
            return rows, columns
    return None


def height_and_width(size: Any) -> tuple[int, int]:
    """Of a size in a configuration, which is one number for squares."""
    return (size, size) if isinstance(size, int) else (size[-2], size[-1])


def patch_grid(config: PretrainedConfig, pixel_values: torch.Tensor) -> tuple[int, int] | None:
    """Rows and columns of the patches that an image is cut into, where the configuration says their size."""
    size = getattr(config, "patch_size", None)
    if not size or pixel_values.dim() != 4:
        return None
    height, width = height_and_width(size)
    return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width


def _pool_patches(
    patches: torch.Tensor, grid: tuple[int, int] | None, pooling: ImagePooling, name: str
) -> torch.Tensor:
    if pooling.kind == "mean":
        return patches.mean(1)
    num_patches, num_tokens = patches.shape[1], pooling.num_tokens
    if num_tokens is None or num_tokens == num_patches:
        return patches
    if num_tokens > num_patches:
        raise ValueError(
            f"`num_visual_tokens` is {num_tokens} (with a resampler, `visual_resampler_num_patches`), but the image "
            f"encoder {name} gives an image {num_patches} patches."
        )
    shape = None if grid is None else _smaller_grid(grid, num_tokens)
    columns = patches.transpose(1, 2)
    if grid is None or shape is None:
        return nn.functional.adaptive_avg_pool1d(columns, num_tokens).transpose(1, 2)
    return nn.functional.adaptive_avg_pool2d(columns.unflatten(2, grid), shape).flatten(2).transpose(1, 2)


def _smaller_grid(grid: tuple[int, int], size: int) -> tuple[int, int] | None:
    """The grid of `size` cells inside of another whose proportions are nearest to it."""
    shapes = [(rows, size // rows) for rows in range(1, size + 1) if size % rows == 0]
    shapes = [shape for shape in shapes if shape[0] <= grid[0] and shape[1] <= grid[1]]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] * grid[1] / (shape[1] * grid[0]))), default=None)


def _no_class_token(name: str) -> str:
    return f'The image encoder {name} has no class token; expected another `vision_pooling` than "cls", such as "mean".'


__all__ = ["VISION_POOLINGS", "ImagePooling", "height_and_width", "patch_grid", "pool_states"]
