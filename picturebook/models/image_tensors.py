"""Between images as bytes and as a generator's tensors."""

import numpy as np
import torch
from PIL import Image


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 `(n, 32, 32, 3)` to float32 `(n, 3, 32, 32)` from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_arrays(tensor: torch.Tensor) -> np.ndarray:
    """The way back; values outside are cut off."""
    return ((tensor.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_images(images: list[Image.Image]) -> np.ndarray:
    """PIL images of one size as uint8 `(n, height, width, 3)`."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def to_images(images: np.ndarray) -> list[Image.Image]:
    """uint8 `(n, height, width, 3)` as PIL images."""
    return [Image.fromarray(image) for image in images]
