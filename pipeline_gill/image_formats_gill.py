"""An image in each of the formats that diffusers' `output_type` names."""

from typing import Any

import numpy as np
import torch
from PIL import Image


def as_pil(image: Any) -> Image.Image:
    """An image that diffusers made, `(height, width, 3)` array or `(3, height, width)` tensor in [0, 1], as PIL."""
    if isinstance(image, torch.Tensor):
        image = image.detach().float().cpu().permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        image = Image.fromarray((image * 255).round().astype("uint8"))
    return image.convert("RGB")


def as_output_type(image: Image.Image, output_type: str) -> Any:
    """A PIL image as `output_type` (`"pil"`, `"np"` or `"pt"`) asks."""
    if output_type == "pil":
        return image
    array = np.asarray(image, dtype=np.float32) / 255
    return array if output_type == "np" else torch.from_numpy(array).permute(2, 0, 1)


__all__ = ["as_output_type", "as_pil"]
