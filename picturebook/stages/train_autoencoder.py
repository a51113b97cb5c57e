"""The generator's autoencoder, trained on single drawings."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional

from ..models.image_tensors import to_arrays, to_tensor
from ..world.backgrounds import IMAGE_SIZE
from ..world.pairs import pair_batches, sample_pairs
from ..world.reader import rates
from ..world.splits import TRAIN, VALIDATION, stream
from .run_folder import Place
from .training_loop import Schedule, remove_checkpoints, run_training

STAGE = "autoencoder"
_KL_WEIGHT, _MEASURED = 1e-6, 500


def train_autoencoder(place: Place, schedule: Schedule, widths: tuple[int, ...], seed: int = 0) -> None:
    """Train, measure and save; latents are of [`latent_side`], with four channels."""
    torch.manual_seed(seed)
    model = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=min(16, *widths),
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    wrapped = _Reconstruction(model)
    side = latent_side(widths)
    latent_shape = (model.config.latent_channels, side, side)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = next(pair_batches(TRAIN, schedule.batch_size, seed, start=step))
        images = to_tensor(batch.images)
        noise = torch.randn(len(images), *latent_shape, generator=generator)
        return wrapped(images.to(model.device), noise.to(model.device))

    seconds = run_training(STAGE, wrapped, schedule, loss_of_step, place.checkpoints(STAGE), seed)
    drawn = sample_pairs(VALIDATION, _MEASURED, stream(seed, VALIDATION, STAGE))
    with torch.no_grad():
        latents = model.encode(to_tensor(drawn.images)).latent_dist.mean
        # So that the generator's latents have unit variance.
        model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
        decoded = to_arrays(model.decode(latents).sample)
    place.write_folder(STAGE, model.save_pretrained)
    place.write_pairs_sheet(STAGE, drawn.images, decoded)
    place.write_figures(
        STAGE,
        {
            "parameters": sum(one.numel() for one in model.parameters()),
            "minutes": seconds / 60,
            "psnr_db": psnr(decoded, drawn.images),
            "right": rates(decoded, drawn.scenes),
        },
    )
    remove_checkpoints(place.checkpoints(STAGE))


def latent_side(widths: Sequence[int]) -> int:
    """Height and width of an image's latents; each level after the first halves them."""
    return IMAGE_SIZE // 2 ** (len(widths) - 1)


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal to noise over all images, in dB."""
    error = np.mean((images.astype(np.float64) - truth) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


class _Reconstruction(nn.Module):
    """What is trained: squared and absolute error, and a little of the KL divergence."""

    def __init__(self, model: AutoencoderKL) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents = self.model.encode(images).latent_dist
        decoded = self.model.decode(latents.mean + latents.std * noise).sample.float()
        error = functional.mse_loss(decoded, images) + 0.1 * functional.l1_loss(decoded, images)
        return error + _KL_WEIGHT * latents.kl().float().mean()
