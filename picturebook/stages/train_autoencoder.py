"""The generator's autoencoder, trained on single drawings."""

import torch
from diffusers import AutoencoderKL

from modeling_gill.atomic_write_gill import replace_folder

from ..models.autoencoder import ReconstructionLoss, latent_side, psnr, to_arrays, to_tensor
from ..world.backgrounds import IMAGE_SIZE
from ..world.pairs import sample_pairs
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, stream
from .run_folder import RunFolder
from .settings import Settings
from .training_loop import Part, run_parts

STAGE = "autoencoder"
_NUM_MEASURED = 500


def train_autoencoder(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Train, measure and save; latents are of [`latent_side`], with four channels."""
    widths, batch_size = settings.autoencoder_widths, settings.autoencoder.batch_size
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
    with_loss = ReconstructionLoss(model)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        images = to_tensor(sample_pairs(TRAIN, batch_size, stream(seed, TRAIN, f"pairs {step}")).images)
        side = latent_side(widths)
        noise = torch.randn(batch_size, model.config.latent_channels, side, side, generator=generator)
        return with_loss(images.to(model.device), noise.to(model.device))

    parts = [Part(settings.autoencoder, loss_of_step)]
    seconds = run_parts(STAGE, with_loss, parts, run.checkpoints(STAGE), seed)
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
            "parameters": model.num_parameters(),
            "minutes": seconds / 60,
            "psnr_db": psnr(decoded, drawn.images),
            "right": correct_shares(decoded, drawn.scenes),
        },
    )
