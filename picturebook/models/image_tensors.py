"""Between uint8 images and the tensors that models read and write."""

import numpy as np
import torch


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 `(num_images, height, width, 3)` to float32 `(num_images, 3, height, width)` from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_arrays(tensor: torch.Tensor) -> np.ndarray:
    """The inverse of [`to_tensor`]; values are clipped to [-1, 1]."""
    return ((tensor.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
