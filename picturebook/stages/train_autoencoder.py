"""The generator's autoencoder, trained on single drawings."""

import torch
from diffusers import AutoencoderKL

from modeling_gill.atomic_write_gill import replace_folder

from ..models.autoencoder import ReconstructionLoss, latent_side, psnr
from ..models.image_tensors import to_arrays, to_tensor
from ..world.backgrounds import IMAGE_SIZE
from ..world.pairs import pair_batches, sample_pairs
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, stream
from .run_folder import RunFolder
from .training_loop import Schedule, remove_checkpoints, run_training

STAGE = "autoencoder"
_NUM_MEASURED = 500


def train_autoencoder(run: RunFolder, schedule: Schedule, widths: tuple[int, ...], seed: int = 0) -> None:
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
    wrapped = ReconstructionLoss(model)
    side = latent_side(widths)
    latent_shape = (model.config.latent_channels, side, side)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        batch = next(pair_batches(TRAIN, schedule.batch_size, seed, start=step))
        images = to_tensor(batch.images)
        noise = torch.randn(len(images), *latent_shape, generator=generator)
        return wrapped(images.to(model.device), noise.to(model.device))

    seconds = run_training(STAGE, wrapped, schedule, loss_of_step, run.checkpoints(STAGE), seed)
    drawn = sample_pairs(VALIDATION, _NUM_MEASURED, stream(seed, VALIDATION, STAGE))
    with torch.no_grad():
        latents = model.encode(to_tensor(drawn.images)).latent_dist.mean
        # So that the generator's latents have unit variance.
        model.register_to_config(scaling_factor=round(1 / float(latents.std()), 4))
        decoded = to_arrays(model.decode(latents).sample)
    with replace_folder(run.folder(STAGE)) as folder:
        model.save_pretrained(folder)
    run.write_pairs_sheet(STAGE, drawn.images, decoded)
    run.write_metrics(
        STAGE,
        {
            "parameters": sum(one.numel() for one in model.parameters()),
            "minutes": seconds / 60,
            "psnr_db": psnr(decoded, drawn.images),
            "right": correct_shares(decoded, drawn.scenes),
        },
    )
    remove_checkpoints(run.checkpoints(STAGE))
