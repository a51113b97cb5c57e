"""The world's text-to-image generator: a Stable Diffusion pipeline, its UNet trained on images and captions.

The autoencoder and the text tower of the stages before are frozen.
"""

from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from modeling_gill.atomic_write_gill import replace_folder
from training_gill.small_data import small_stable_diffusion

from ..models.autoencoder import latent_side, to_tensor
from ..models.image_generator import DenoisingLoss, generate_from_captions, plain_captions
from ..world.drawing import draw
from ..world.pairs import PairMixture, caption_for
from ..world.reader import correct_shares
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import GeneratorPhase, Settings
from .train_autoencoder import STAGE as AUTOENCODER
from .train_clip import STAGE as CLIP
from .train_clip import story_so_far
from .training_loop import Part, run_parts

STAGE = "generator"
_NO_CAPTION, _STORIES = 0.1, 0.1
# Kinds are learned first from fully described scenes of one object.
_EASY = PairMixture(single_share=0.6, plain_share=0.8, partial_share=0.0)
_FULL = PairMixture(single_share=0.2, plain_share=0.6, partial_share=0.1)


def train_generator(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Train the UNet to predict v in the autoencoder's latents; measure and save the whole pipeline."""
    widths = settings.generator_widths
    vae = AutoencoderKL.from_pretrained(run.folder(AUTOENCODER)).requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(run.folder(CLIP)).requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(run.folder(CLIP))
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=latent_side(vae.config.block_out_channels),
        layers_per_block=1,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=widths,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D",) * len(widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(widths),
        cross_attention_dim=text_encoder.config.hidden_size,
        attention_head_dim=4,
    )
    pipeline = small_stable_diffusion(vae, text_encoder, tokenizer, unet, "v_prediction")
    with_loss = DenoisingLoss(pipeline)
    parts = [
        Part(phase, partial(_loss_of_step, with_loss, phase, f"generator {number}", seed))
        for number, phase in enumerate(settings.generator, start=1)
    ]
    seconds = run_parts(STAGE, with_loss, parts, run.checkpoints(STAGE), seed)
    pipeline.to("cpu")
    with replace_folder(run.folder(STAGE)) as folder:
        pipeline.save_pretrained(folder)
    metrics = {"parameters": unet.num_parameters(), "minutes": seconds / 60}
    generator = stream(seed, VALIDATION, STAGE)
    shares = {"right_one_object": (1.0, 0.0), "right_two_objects": (0.0, 0.0)}
    if settings.fast:
        shares["right_fast_scenes"] = (0.0, 1.0)
    for name, (single_share, fast) in shares.items():
        scenes = [scene_in(VALIDATION, generator, single_share, fast) for _ in range(settings.measured)]
        images = generate_from_captions(pipeline, plain_captions(scenes), seed)
        metrics[name] = correct_shares(images, scenes)
    run.write_sheet(STAGE, images[:40])
    run.write_metrics(STAGE, metrics)


def _loss_of_step(
    with_loss: DenoisingLoss,
    phase: GeneratorPhase,
    purpose: str,
    seed: int,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    drawn = stream(seed, TRAIN, f"{purpose} {step}")
    easy = step < phase.easy_steps
    mixture = _EASY if easy else _FULL
    captions, scenes = [], []
    for _ in range(phase.batch_size):
        if not easy and drawn.random() < _STORIES:
            caption, scene = story_so_far(TRAIN, drawn)
        else:
            scene = scene_in(TRAIN, drawn, mixture.single_share, phase.fast)
            caption = caption_for(scene, drawn, mixture)
        captions.append("" if drawn.random() < _NO_CAPTION else caption)
        scenes.append(scene)
    images = np.stack([draw(scene, drawn if phase.jitter else None) for scene in scenes])
    return with_loss(to_tensor(images), captions, generator)
