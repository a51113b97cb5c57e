"""What an image generator is conditioned on, as data: the tensors that its text encoders make of a prompt.

A model holds this specification in its configuration and yields one conditioning for each image: a dictionary of the
tensors by name, each with a mask where its images can have different lengths.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

NEGATIVES_FILE = "negative_conditioning.safetensors"
LAYOUTS = ("padded", "trimmed", "extended", "list")
_DEFAULT_NAME = "prompt_embeds"


@dataclass(frozen=True)
class ConditioningTensor:
    """
    One tensor of an image generator's conditioning.

    Args:
        name (`str`): The argument of the generator's `__call__` that takes it, such as `"prompt_embeds"`.
        length (`int`, *optional*):
            The most positions that it can have. `None` for one vector per image (`"pooled_prompt_embeds"`).
        dim (`int`): Width of each position.
        mask_name (`str`, *optional*): The argument that takes its mask, such as `"prompt_attention_mask"`.
        mask_dtype (`str`, defaults to `"int64"`): The dtype of that argument, by its name in torch.
        layout (`str`, defaults to `"padded"`):
            How the generator takes it: `"padded"` to `length` positions, `"trimmed"` to the longest of the batch,
            `"extended"` to `length` positions though it encodes to the longest of a batch (its call takes positives and
            negatives of the same length alone), or `"list"`, one tensor `(positions, dim)` per image.
        scale (`float`, *optional*):
            Root mean square of its values. The mapper's output and the loss are in units of it; `None`: of 1, and the
            loss is not divided by the width either, as in the paper.
        reads_padding (`bool`, defaults to `False`):
            Whether the generator also reads the positions that are masked (Chroma, which adds its mask to the scores
            of attention), so that they are learnt as the others are.
        can_be_empty (`bool`, defaults to `False`):
            Whether it has no positions at all for some prompts, such as those without quoted text (HunyuanImage).

    Raises:
        ValueError: a field that is of another type or out of its range; the message names it.

    Example:

    ```python
    >>> from modeling_gill.conditioning_gill import ConditioningTensor

    >>> ConditioningTensor("prompt_embeds", 300, 2304, mask_name="prompt_attention_mask").mask_key
    'prompt_attention_mask'
    ```
    """

    name: str
    length: int | None
    dim: int
    mask_name: str | None = None
    mask_dtype: str = "int64"
    layout: str = "padded"
    scale: float | None = None
    reads_padding: bool = False
    can_be_empty: bool = False

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("mask_name", self.mask_name)):
            # Names of modules as well, so none that a container of modules has already.
            is_name = isinstance(value, str) and value.isidentifier() and not hasattr(nn.ModuleDict, value)
            if not is_name and (field == "name" or value is not None):
                raise ValueError(f"`{field}` of a conditioning tensor must be an argument's name, got {value!r}.")
        for field, size in (("length", self.length), ("dim", self.dim)):
            if (type(size) is not int or size < 1) and (field == "dim" or size is not None):
                raise ValueError(f"`{field}` of `{self.name}` must be a positive integer, got {size!r}.")
        if self.layout not in LAYOUTS:
            raise ValueError(f"`layout` of `{self.name}` must be one of {LAYOUTS}, got {self.layout!r}.")
        if not isinstance(self.mask_dtype, str) or not isinstance(getattr(torch, self.mask_dtype, None), torch.dtype):
            raise ValueError(f"`mask_dtype` of `{self.name}` must name a dtype of torch, got {self.mask_dtype!r}.")
        if self.length is None and (self.mask_name is not None or self.layout != "padded"):
            raise ValueError(f"`{self.name}` has no `length`, so neither a mask nor the layout {self.layout!r}.")
        if not isinstance(self.reads_padding, bool) or (self.reads_padding and self.mask_name is None):
            raise ValueError(
                f"`reads_padding` of `{self.name}` must be true or false, and false without a mask, got "
                f"{self.reads_padding!r}."
            )
        if not isinstance(self.can_be_empty, bool) or (self.can_be_empty and self.mask_key is None):
            raise ValueError(
                f"`can_be_empty` of `{self.name}` must be true or false, and false without a mask, got "
                f"{self.can_be_empty!r}."
            )
        if self.scale is not None and not (
            isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool) and 0 < self.scale < math.inf
        ):
            raise ValueError(f"`scale` of `{self.name}` must be a positive number, got {self.scale!r}.")

    @property
    def mask_key(self) -> str | None:
        """Name of the mask in a conditioning; `None` where every image has `length` positions, or one vector."""
        if self.length is None or (self.mask_name is None and self.layout == "padded"):
            return None
        return self.mask_name or f"{self.name}_mask"

    @property
    def num_positions(self) -> int:
        """`length`, or 1 for one vector per image."""
        return self.length or 1

    @property
    def least_length(self) -> int:
        """The fewest positions of an image."""
        return 0 if self.can_be_empty else 1

    @property
    def is_plain(self) -> bool:
        """Whether it is what Stable Diffusion 1 takes, which a configuration stores as two numbers."""
        return self == ConditioningTensor(_DEFAULT_NAME, self.length, self.dim) and self.length is not None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them, without defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}


def read_conditioning(entries: Any) -> tuple[ConditioningTensor, ...]:
    """
    A specification from JSON, or of [`ConditioningTensor`].

    Args:
        entries (`list` of `dict` or [`ConditioningTensor`]): One for each tensor, in the order of the queries.

    Raises:
        ValueError: no entries, unknown or missing fields, or a name that occurs twice.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ValueError(f"`conditioning` must be a list of one or more tensors, got {entries!r:.200}.")
    tensors = tuple(entry if isinstance(entry, ConditioningTensor) else _read_entry(entry) for entry in entries)
    names = [name for tensor in tensors for name in (tensor.name, tensor.mask_key) if name is not None]
    if len(set(names)) != len(names):
        raise ValueError(f"`conditioning` must have different names for all tensors and masks, got {names}.")
    return tensors


def conditioning_of(values: Mapping[str, Any]) -> tuple[ConditioningTensor, ...]:
    """
    The specification that a configuration or a cache holds: `conditioning`, or the numbers `conditioning_length` and
    `conditioning_dim` of one plain tensor.

    Raises:
        ValueError: neither, or one that is wrong.
    """
    if values.get("conditioning") is not None:
        return read_conditioning(values["conditioning"])
    sizes = {"length": values.get("conditioning_length"), "dim": values.get("conditioning_dim")}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"`conditioning_{name}` must be a positive integer, got {size!r}.")
    return read_conditioning([{"name": _DEFAULT_NAME, **sizes}])


def conditioning_fields(tensors: Sequence[ConditioningTensor]) -> dict[str, Any]:
    """What [`conditioning_of`] reads: two numbers for one plain tensor, which older versions read too."""
    if len(tensors) == 1 and tensors[0].is_plain:
        return {"conditioning_length": tensors[0].length, "conditioning_dim": tensors[0].dim}
    return {"conditioning": [tensor.to_dict() for tensor in tensors]}


def mask_of_lengths(lengths: torch.Tensor, longest: int) -> torch.Tensor:
    """
    Args:
        lengths (`torch.LongTensor` of shape `(num_images,)`).
        longest (`int`): Positions of the mask.

    Returns:
        `torch.BoolTensor` of shape `(num_images, longest)`: true at the first `lengths` positions.
    """
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def take_images(conditioning: Mapping[str, torch.Tensor], images: torch.Tensor | slice) -> dict[str, torch.Tensor]:
    """The conditioning of some images, by their indices."""
    return {
        name: values[images.to(values.device) if isinstance(images, torch.Tensor) else images]
        for name, values in conditioning.items()
    }


def write_negatives(path: str | os.PathLike[str], negatives: Mapping[str, torch.Tensor]) -> None:
    """Write what a generator guides away from, by the names of its arguments, to a file."""
    save_file({name: values.contiguous().cpu() for name, values in negatives.items()}, path)


def read_negatives(folder: str | os.PathLike[str]) -> dict[str, torch.Tensor] | None:
    """What [`write_negatives`] wrote to [`NEGATIVES_FILE`] of a folder, or `None`."""
    path = os.path.join(folder, NEGATIVES_FILE)
    return load_file(path) if os.path.isfile(path) else None


def _read_entry(entry: Any) -> ConditioningTensor:
    if not isinstance(entry, Mapping):
        raise ValueError(f"A tensor of `conditioning` must be a dict, got {entry!r:.200}.")
    known = {field.name for field in fields(ConditioningTensor)}
    needed = {field.name for field in fields(ConditioningTensor) if field.default is MISSING}
    if not needed <= {*entry} <= known:
        raise ValueError(
            f"A tensor of `conditioning` has the fields {sorted(map(str, entry))}; expected {sorted(needed)}, and of "
            f"{sorted(known - needed)} those that it needs."
        )
    return ConditioningTensor(**entry)


__all__ = [
    "LAYOUTS",
    "NEGATIVES_FILE",
    "ConditioningTensor",
    "conditioning_fields",
    "conditioning_of",
    "mask_of_lengths",
    "read_conditioning",
    "read_negatives",
    "take_images",
    "write_negatives",
]
