"""A GILL pipeline draws with image generators of any kind, each a whole pipeline of diffusers."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline_gill import GillPipeline
from pipeline_gill.conditioning_capture_gill import (
    capture_negatives,
    copy_generator,
    generator_arguments,
    without_negative_prompt,
)
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS, kinds
from tests.small_generators import CALLS, small_generator
from tests.small_model import small_model, small_processor


def call_of(kind: str) -> dict[str, Any]:
    call = dict(CALLS.get(kind, {}))
    size = {name: call.pop(name) for name in ("height", "width") if name in call}
    steps = {"num_inference_steps": 2}
    if kind == "stable-cascade":
        call["prior_num_inference_steps"] = 2
    return (
        {"decision": "generate", "force_image": True, "output_type": "np", "image_generator_kwargs": call}
        | size
        | steps
    )


def pipeline(kind: str, generator: Any = None) -> GillPipeline:
    processor = small_processor()
    tensors = [tensor.to_dict() for tensor in TENSORS[kind]]
    model = small_model(processor, conditioning=tensors, conditioning_length=None, conditioning_dim=None)
    generator = small_generator(kind) if generator is None else generator
    pipe = GillPipeline(model, processor, *[None] * 5, image_generator=generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("kind", kinds(("sdxl", "z-image")))
def test_the_image_is_the_generators_own_of_what_the_model_yields(kind: str) -> None:
    generator = small_generator(kind)
    pipe = pipeline(kind, generator)
    call = call_of(kind)
    drawn = pipe("a cat", generator=seeded(), **call).images

    batch = pipe.processor(["a cat"], add_img_tokens=True)
    with torch.no_grad():
        own = pipe.model(**batch, output_images=True).conditioning
    own |= capture_negatives(generator, TENSORS[kind])
    arguments = generator_arguments(own, TENSORS[kind]) | without_negative_prompt(generator) | CALLS.get(kind, {})
    steps = {"num_inference_steps": 2} | ({"prior_num_inference_steps": 2} if kind == "stable-cascade" else {})
    wanted = copy_generator(generator)(**arguments, **steps, generator=seeded(), output_type="np")[0]
    assert np.array_equal(np.asarray(drawn), np.asarray(wanted))


def test_saved_and_loaded_it_draws_the_same_and_without_text_encoders(tmp_path) -> None:
    pipe = pipeline("sdxl")
    call = call_of("sdxl")
    wanted = pipe("a cat", generator=seeded(), **call).images
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    pipe.save_pretrained(tmp_path / "inside")
    loaded = GillPipeline.from_pretrained(tmp_path / "inside")
    assert loaded.image_generator.text_encoder is None and loaded.image_generator.tokenizer_2 is None
    assert np.abs(loaded("a cat", generator=seeded(), **call).images - wanted).max() < 1e-5


def test_two_images_of_each_prompt_are_drawn_by_their_own_noise() -> None:
    pipe = pipeline("sdxl")
    call = call_of("sdxl")
    drawn = pipe("a cat", num_images_per_prompt=2, generator=seeded(), **call).image_pieces[0][0]
    assert len(drawn.candidates) == 2


def test_a_generator_that_needs_other_tensors_is_refused_by_name() -> None:
    processor = small_processor()
    plain = small_model(processor, conditioning_length=77, conditioning_dim=32)
    with pytest.raises(ValueError, match=r"StableDiffusionXLPipeline needs \['pooled_prompt_embeds'\] too"):
        GillPipeline(plain, processor, *[None] * 5, image_generator=small_generator("sdxl"))
    narrow = small_model(processor, conditioning_length=77, conditioning_dim=12)
    with pytest.raises(ValueError, match=r"reads `prompt_embeds` of width 16, and `conditioning` has 12"):
        GillPipeline(narrow, processor, *[None] * 5, image_generator=small_generator("lcm"))


def test_steps_and_guidance_are_the_generators_own() -> None:
    assert pipeline("lcm").call_defaults() == {"num_inference_steps": 4, "guidance_scale": 8.5}
    assert pipeline("sdxl").config.guidance_scale == 5.0
    with pytest.raises(ValueError, match="LatentConsistencyModelPipeline takes no"):
        pipe = pipeline("lcm")
        pipe("a cat", latents=torch.zeros(1, 4, 8, 8), negative_prompt_embeds=torch.zeros(1, 77, 16), **call_of("lcm"))
