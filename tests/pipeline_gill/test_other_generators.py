"""Generators that are tried once: what they take is found out and proved, or they are refused by name."""

import re
from typing import Any

import diffusers
import pytest
import torch

from pipeline_gill.conditioning_capture_gill import capture_conditioning, capture_negatives, generator_arguments
from pipeline_gill.conditioning_derivation import derive_conditioning
from pipeline_gill.generator_call_gill import (
    CallFailedError,
    UnconditionableGenerator,
    copy_generator,
    without_negative_prompt,
)
from pipeline_gill.generator_loading_gill import TEXT_ENCODER_READERS, TEXT_PREFIXES
from tests.other_generators import OTHERS, other_generator
from tests.small_generators import small_generator

QUICK = ("Kandinsky 2.1", "DreamLite", "Stable Diffusion 1.5, PAG", "Lumina-Next", "ERNIE-Image")


@pytest.mark.parametrize("kind", [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in OTHERS])
def test_a_generator_is_conditioned_exactly_or_refused_by_name(kind: str) -> None:
    generator, other = other_generator(kind), OTHERS[kind]
    if isinstance(other.outcome, str):
        message = f"{type(generator).__name__} cannot be conditioned by a model: {other.outcome}"
        with pytest.raises(UnconditionableGenerator, match=re.escape(message)):
            derive_conditioning(generator, **other.call)
        return
    assert derive_conditioning(generator, **other.call) == other.outcome

    # It draws without its text encoders, which are not loaded where negatives are stored.
    conditioning = capture_conditioning(generator, ["a cat on a mat"], other.outcome, **other.call)
    conditioning |= capture_negatives(generator, other.outcome, **other.call)
    bare = copy_generator(generator)
    if type(generator).__name__ not in TEXT_ENCODER_READERS:
        for name in [part for part in bare.components if part.startswith(TEXT_PREFIXES)]:
            setattr(bare, name, None)
    images = []
    for drawing in (generator, bare):
        given = {**generator_arguments(conditioning, other.outcome), **without_negative_prompt(generator), **other.call}
        options = {"num_inference_steps": 2, "output_type": "latent", "generator": torch.Generator().manual_seed(1)}
        images.append(copy_generator(drawing)(**given, **options)[0])
    assert torch.equal(*map(torch.as_tensor, images))


def test_a_pipeline_of_videos_is_refused_by_name() -> None:
    class Videos(diffusers.StableDiffusionPipeline):
        """Takes a number of frames."""

        def __call__(self, prompt: Any = None, num_frames: int = 16, prompt_embeds: Any = None) -> Any:
            raise AssertionError("called")

    videos = Videos(**small_generator("stable-diffusion-1.5").components, requires_safety_checker=False)
    with pytest.raises(UnconditionableGenerator, match=r"Videos cannot be .* its call takes `num_frames`"):
        derive_conditioning(videos)


def test_a_generator_whose_own_call_fails_is_refused_with_what_it_raised() -> None:
    class Broken(diffusers.StableDiffusionPipeline):
        """Cannot draw."""

        def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
            raise KeyError("no such latents")

    broken = Broken(**small_generator("stable-diffusion-1.5").components, requires_safety_checker=False)
    with pytest.raises(CallFailedError, match=r"Broken cannot be .* its call failed with KeyError: 'no such latents'"):
        derive_conditioning(broken)
