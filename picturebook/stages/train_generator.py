"""The world's text-to-image generator: a Stable Diffusion pipeline, its UNet trained on images and captions.

Autoencoder and text tower come from the stages before and stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn
from torch.nn import functional
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from ..models.image_tensors import from_images, to_tensor
from ..world.backgrounds import IMAGE_SIZE
from ..world.caption_grammar import describe
from ..world.drawing import draw
from ..world.pairs import PairMixture, caption_for
from ..world.partial_scene import all_of
from ..world.reader import rates
from ..world.scene import Scene
from ..world.splits import TRAIN, VALIDATION, scene_in, stream
from . import train_autoencoder as autoencoder
from . import train_clip as clip
from .run_folder import Place
from .training_loop import LossOfStep, Part, Schedule, remove_checkpoints, run_parts

STAGE = "generator"
GUIDANCE_SCALE, INFERENCE_STEPS = 2.0, 25
_NO_CAPTION, _STORIES = 0.1, 0.1
# Kinds are learnt soonest from scenes of one thing, all fully described.
_EASY = PairMixture(one_thing=0.6, plain=0.8, left_out=0.0)
_FULL = PairMixture(one_thing=0.2, plain=0.6, left_out=0.1)
# Conditioning is jittered by up to this part of its deviation: GILL's mapper comes near a caption, never right on it.
_MOST_NOISE = 0.3


@dataclass(frozen=True)
class Phase:
    """A part of training.

    Attributes:
        schedule: How long.
        easy_steps: So many steps at its begin see more scenes of one thing, all fully described.
        familiar: How many scenes are familiar, see [`familiar`].
        jitter: Whether things are off their places by up to a pixel, as everywhere else in this world. Nothing that the
            generator is asked for says how; undecided, it draws a thing twice, a pixel apart.
    """

    schedule: Schedule
    easy_steps: int = 0
    familiar: float = 0.0
    jitter: bool = True


def train_generator(
    place: Place, phases: Sequence[Phase], widths: tuple[int, ...], measured: int, seed: int = 0
) -> None:
    """Train the UNet to predict v in the autoencoder's latents; measure and save the whole pipeline."""
    vae = AutoencoderKL.from_pretrained(place.folder(autoencoder.STAGE)).eval().requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(place.folder(clip.STAGE)).eval().requires_grad_(False)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place.folder(clip.STAGE))
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=autoencoder.latent_side(vae.config.block_out_channels),
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
    wrapped = _Denoising(unet, vae, text_encoder, scheduler)
    parts = [
        Part(phase.schedule, _loss_of_step(wrapped, phase, tokenizer, f"generator {number}", seed))
        for number, phase in enumerate(phases, start=1)
    ]
    seconds = run_parts(STAGE, wrapped, parts, place.checkpoints(STAGE), seed)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    place.write_folder(STAGE, pipeline.save_pretrained)
    figures = {"parameters": sum(one.numel() for one in unet.parameters()), "minutes": seconds / 60}
    generator = stream(seed, VALIDATION, STAGE)
    shares = {"right_one_thing": (1.0, 0.0), "right_two_things": (0.0, 0.0)}
    if any(phase.familiar for phase in phases):
        shares["right_familiar"] = (0.0, 1.0)
    for name, (one_thing, familiar) in shares.items():
        scenes = [scene_in(VALIDATION, generator, one_thing, familiar) for _ in range(measured)]
        images = generate(pipeline, [describe(all_of(scene)) for scene in scenes], seed)
        figures[name] = rates(images, scenes)
    place.write_sheet(STAGE, list(images[:40]), 8)
    place.write_figures(STAGE, figures)
    remove_checkpoints(place.checkpoints(STAGE))


def generate(pipeline: StableDiffusionPipeline, captions: list[str], seed: int = 0, batch_size: int = 50) -> np.ndarray:
    """What the generator alone draws for captions, uint8 `(captions, 32, 32, 3)`; each with a seed of its own."""
    pipeline.set_progress_bar_config(disable=True)
    drawn = []
    for begin in range(0, len(captions), batch_size):
        some = captions[begin : begin + batch_size]
        seeds = noise_seeds(seed, begin, len(some))
        images = pipeline(
            some,
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=seeds,
        ).images
        drawn.append(from_images(images))
    return np.concatenate(drawn)


def _loss_of_step(
    wrapped: "_Denoising", phase: Phase, tokenizer: PreTrainedTokenizerFast, purpose: str, seed: int
) -> LossOfStep:
    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        drawn = stream(seed, TRAIN, f"{purpose} {step}")
        images, captions = _batch(phase, step, drawn)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return wrapped(to_tensor(images), tokens, generator)

    return loss_of_step


def _batch(phase: Phase, step: int, generator: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    easy = step < phase.easy_steps
    mixture = _EASY if easy else _FULL
    captions, scenes = [], []
    for _ in range(phase.schedule.batch_size):
        if not easy and generator.random() < _STORIES:
            caption, scene = clip.story_so_far(TRAIN, generator)
        else:
            scene = scene_in(TRAIN, generator, mixture.one_thing, phase.familiar)
            caption = caption_for(scene, generator, mixture)
        captions.append("" if generator.random() < _NO_CAPTION else caption)
        scenes.append(scene)
    return np.stack([draw(scene, generator if phase.jitter else None) for scene in scenes]), captions


class _Denoising(nn.Module):
    """The UNet with the loss of v-prediction; the frozen parts are no submodules, so that they are not saved again."""

    def __init__(
        self, unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: CLIPTextModel, scheduler: DDIMScheduler
    ) -> None:
        super().__init__()
        self.unet, self.scheduler, self._frozen = unet, scheduler, (vae, text_encoder)

    def forward(self, images: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        device = self.unet.device
        vae, text_encoder = (one.to(device) for one in self._frozen)
        with torch.no_grad():
            latents = vae.encode(images.to(device)).latent_dist.mean * vae.config.scaling_factor
            states = text_encoder(input_ids=tokens.to(device)).last_hidden_state
        jitter = torch.randn(states.shape, generator=generator) * torch.rand(len(states), 1, 1, generator=generator)
        states = states + _MOST_NOISE * states.std() * jitter.to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        times = times.to(device)
        noisy = self.scheduler.add_noise(latents, noise, times)
        guessed = self.unet(noisy, times, encoder_hidden_states=states).sample
        return functional.mse_loss(guessed.float(), self.scheduler.get_velocity(latents, noise, times))


def noise_seeds(seed: int, begin: int, number: int) -> list[torch.Generator]:
    """Generators of the items from number `begin` on: whatever draws an item starts from the same noise."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + begin + at) for at in range(number)]


def plain_captions(scenes: list[Scene]) -> list[str]:
    """The plain form of each scene's full caption."""
    return [describe(all_of(scene)) for scene in scenes]
