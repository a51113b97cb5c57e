"""The world's text-to-image generator: a Stable Diffusion pipeline of the autoencoder, CLIP's text tower and a UNet."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import nn
from torch.nn import functional

from pipeline_gill.generator_loading_gill import load_text_encoders

from ..world.backgrounds import IMAGE_SIZE
from ..world.caption_grammar import describe
from ..world.drawing import from_images
from ..world.partial_scene import fully_known
from ..world.scene import Scene
from . import batches

GUIDANCE_SCALE, INFERENCE_STEPS = 2.0, 25
# Options of a weaker generator, which draws about half of the images right.
WEAKER: dict[str, float] = {"num_inference_steps": 3, "guidance_scale": 1.0}
# Noise on the conditioning, at most this share of its standard deviation: GILL's mapper is close to a caption's
# conditioning, but never exact.
_MOST_NOISE = 0.3


def generate_from_captions(
    pipeline: StableDiffusionPipeline, captions: Sequence[str], seed: int = 0, steps: int = INFERENCE_STEPS
) -> np.ndarray:
    """Images of captions by the generator alone, uint8 `(num_captions, 32, 32, 3)`, each from noise of its own."""
    return _generate(pipeline, captions, seed, lambda batch: {"prompt": batch}, steps)


def generate_from_conditioning(
    pipeline: StableDiffusionPipeline, prompt_embeds: torch.Tensor, seed: int = 0
) -> np.ndarray:
    """As [`generate_from_captions`], of conditioning `(num_images, length, dim)` in place of captions."""
    return _generate(pipeline, list(prompt_embeds), seed, lambda batch: {"prompt_embeds": torch.stack(batch)})


def _generate(
    pipeline: StableDiffusionPipeline,
    items: Sequence[Any],
    seed: int,
    arguments: Callable[[list[Any]], dict[str, Any]],
    steps: int = INFERENCE_STEPS,
) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for batch in batches(list(zip(items, noise_seeds(seed, len(items)), strict=True))):
        images += pipeline(
            **arguments([item for item, _ in batch]),
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            generator=[generator for _, generator in batch],
        ).images
    return from_images(images)


def plain_generator(pipe: Any) -> StableDiffusionPipeline:
    """The image generator of a GILL pipeline as a pipeline of its own, with the text encoder that GILL does without."""
    load_text_encoders(pipe.image_generator)
    return StableDiffusionPipeline.from_pipe(pipe.image_generator)


def noise_seeds(seed: int, number: int) -> list[torch.Generator]:
    """A random generator for each item: every system that draws an item starts from the same noise."""
    return [torch.Generator().manual_seed(seed * 1_000_003 + item) for item in range(number)]


def plain_captions(scenes: Sequence[Scene]) -> list[str]:
    """The plain form of each scene's full caption."""
    return [describe(fully_known(scene)) for scene in scenes]


class DenoisingLoss(nn.Module):
    """The UNet of a pipeline with the v-prediction loss. Other components are no submodules, so they stay frozen."""

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        super().__init__()
        self.unet, self._pipeline = pipeline.unet, pipeline

    def forward(self, images: torch.Tensor, captions: list[str], generator: torch.Generator) -> torch.Tensor:
        device, pipeline, scheduler = self.unet.device, self._pipeline, self._pipeline.scheduler
        vae, text_encoder = pipeline.vae.to(device), pipeline.text_encoder.to(device)
        tokens = pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            latents = vae.encode(images.to(device)).latent_dist.mean * vae.config.scaling_factor
            states = text_encoder(input_ids=tokens.to(device)).last_hidden_state
        jitter = torch.randn(states.shape, generator=generator) * torch.rand(len(states), 1, 1, generator=generator)
        states = states + _MOST_NOISE * states.std() * jitter.to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        times = torch.randint(0, scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        times = times.to(device)
        noisy = scheduler.add_noise(latents, noise, times)
        predicted = self.unet(noisy, times, encoder_hidden_states=states).sample
        return functional.mse_loss(predicted.float(), scheduler.get_velocity(latents, noise, times))
