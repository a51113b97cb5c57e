"""The image generator's autoencoder: its loss, and images as the tensors that it reads and writes."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from ..world.backgrounds import IMAGE_SIZE

_KL_WEIGHT = 1e-6


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 `(num_images, height, width, 3)` to float32 `(num_images, 3, height, width)` from -1 to 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_arrays(tensor: torch.Tensor) -> np.ndarray:
    """The inverse of [`to_tensor`]; values are clipped to [-1, 1]."""
    return ((tensor.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def latent_side(widths: Sequence[int]) -> int:
    """Height and width of an image's latents; each level after the first halves them."""
    return IMAGE_SIZE // 2 ** (len(widths) - 1)


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal to noise over all images, in dB."""
    error = np.mean((images.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


class ReconstructionLoss(nn.Module):
    """Squared and absolute error of the decoded images, plus a small KL divergence."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents = self.model.encode(images).latent_dist
        decoded = self.model.decode(latents.mean + latents.std * noise).sample.float()
        error = functional.mse_loss(decoded, images) + 0.1 * functional.l1_loss(decoded, images)
        return error + _KL_WEIGHT * latents.kl().float().mean()
