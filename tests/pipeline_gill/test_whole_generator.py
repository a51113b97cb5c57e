"""A GILL pipeline draws with image generators of any kind, each a whole pipeline of diffusers."""

import copy
import functools
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline_gill import GillPipeline
from pipeline_gill.conditioning_capture_gill import capture_negatives, generator_arguments
from pipeline_gill.generator_call_gill import copy_generator, without_negative_prompt
from pipeline_gill.load_options_gill import GENERATOR_COMPONENTS
from pipeline_gill.repository_writer_gill import write_repository
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS, kinds
from tests.small_generators import CALLS, PHOTO, small_generator
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
    pipe = GillPipeline(model, processor, generator)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("kind", kinds(("sdxl", "z-image", "controlnet")))
def test_the_image_is_the_generators_own_of_what_the_model_yields(kind: str) -> None:
    generator = small_generator(kind)
    pipe = pipeline(kind, generator)
    call = call_of(kind)
    drawn = pipe("a cat", generator=seeded(), **call).images

    batch = pipe.processor(["a cat"], add_img_tokens=True)
    with torch.no_grad():
        own = pipe.model(**batch, output_images=True).conditioning
    own |= capture_negatives(generator, TENSORS[kind], **CALLS.get(kind, {}))
    arguments = generator_arguments(own, TENSORS[kind]) | without_negative_prompt(generator) | CALLS.get(kind, {})
    steps = {"num_inference_steps": 2} | ({"prior_num_inference_steps": 2} if kind == "stable-cascade" else {})
    wanted = copy_generator(generator)(**arguments, **steps, generator=seeded(), output_type="np")[0]
    assert np.array_equal(np.asarray(drawn), np.asarray(wanted))


def load(folder: Any) -> GillPipeline:
    pipe = GillPipeline.from_pretrained(folder)
    # Loaded weights lie in the file's memory at any address, and matrix products of the CPU are the same to the last
    # bit only for weights at addresses of the same alignment: a copy is aligned as weights that were never saved.
    pipe.model = copy.deepcopy(pipe.model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_saved_and_loaded_it_draws_the_same_and_without_text_encoders(tmp_path) -> None:
    pipe, call = pipeline("sdxl"), call_of("sdxl")
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    pipe.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.image_generator.text_encoder is None and loaded.image_generator.tokenizer_2 is None
    wanted = pipe("a cat", generator=seeded(), **call).images
    assert np.array_equal(loaded("a cat", generator=seeded(), **call).images, wanted)
    assert loaded.image_generator.text_encoder is None

    # Saved again, nothing is lost that was not loaded.
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/image_generator/text_encoder_2/model.safetensors").is_file()
    assert str(tmp_path) not in "".join(path.read_text() for path in tmp_path.rglob("again/**/*config.json"))


def test_text_encoders_are_loaded_for_a_text_to_guide_away_from(tmp_path) -> None:
    pipe, call = pipeline("sdxl"), call_of("sdxl")
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    pipe.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    of_nothing = loaded("a cat", generator=seeded(), **call).images
    images = [p("a cat", negative_prompt="a dog", generator=seeded(), **call).images for p in (pipe, loaded)]
    assert np.abs(images[0] - images[1]).max() < 1e-5 and np.abs(images[0] - of_nothing).max() > 1e-3
    assert loaded.image_generator.text_encoder_2 is not None


def test_a_generator_is_loaded_from_the_repository_that_the_configuration_names(tmp_path) -> None:
    pipe, call = pipeline("sdxl"), call_of("sdxl")
    wanted = pipe("a cat", generator=seeded(), **call).images
    pipe.image_generator.save_pretrained(tmp_path / "sdxl")
    pipe.model.config.image_generator_id = str(tmp_path / "sdxl")
    write_repository(tmp_path / "gill", pipe.model, pipe.processor)
    loaded = load(tmp_path / "gill")
    assert type(loaded.image_generator) is type(pipe.image_generator)
    assert np.array_equal(loaded("a cat", generator=seeded(), **call).images, wanted)

    negatives = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    write_repository(tmp_path / "gill", pipe.model, pipe.processor, negative_conditioning=negatives)
    loaded = load(tmp_path / "gill")
    assert loaded.image_generator.text_encoder is None
    assert np.array_equal(loaded("a cat", generator=seeded(), **call).images, wanted)
    loaded.save_pretrained(tmp_path / "gill")
    assert not (tmp_path / "gill/image_generator").exists()
    loaded = load(tmp_path / "gill")
    images = [p("a cat", negative_prompt="a dog", generator=seeded(), **call).images for p in (pipe, loaded)]
    assert np.abs(images[0] - images[1]).max() < 1e-5


def test_stored_conditioning_of_another_generator_is_refused_with_both_sizes(tmp_path) -> None:
    pipe = pipeline("sdxl")
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["sdxl"])
    pipe.save_pretrained(tmp_path)
    file = tmp_path / "negative_conditioning.safetensors"
    stored = load_file(file)
    save_file({**stored, "negative_pooled_prompt_embeds": torch.zeros(1, 16)}, file)
    wanted = r"`negative_pooled_prompt_embeds` must have the shape \(1, 12\), got "
    with pytest.raises(ValueError, match=wanted + r"\(1, 16\)"):
        GillPipeline.from_pretrained(tmp_path)
    save_file({"negative_prompt_embeds": stored["negative_prompt_embeds"]}, file)
    with pytest.raises(ValueError, match=wanted + "None"):
        GillPipeline.from_pretrained(tmp_path)
    file.unlink()
    narrow = small_model(pipe.processor, conditioning_length=77, conditioning_dim=12)
    write_repository(tmp_path, narrow, pipe.processor, image_generator=small_generator("lcm"))
    with pytest.raises(ValueError, match=r"reads `prompt_embeds` of width 16, and `conditioning` has 12"):
        GillPipeline.from_pretrained(tmp_path)


def test_two_images_of_each_prompt_are_drawn_by_their_own_noise() -> None:
    pipe = pipeline("sdxl")
    call = call_of("sdxl")
    drawn = pipe("a cat", num_images_per_prompt=2, generator=seeded(), **call).image_pieces[0][0]
    assert len(drawn.candidates) == 2


def test_a_generator_that_needs_other_tensors_is_refused_by_name() -> None:
    processor = small_processor()
    plain = small_model(processor, conditioning_length=77, conditioning_dim=32)
    with pytest.raises(ValueError, match=r"StableDiffusionXLPipeline needs \['pooled_prompt_embeds'\] too"):
        GillPipeline(plain, processor, small_generator("sdxl"))
    narrow = small_model(processor, conditioning_length=77, conditioning_dim=12)
    with pytest.raises(ValueError, match=r"reads `prompt_embeds` of width 16, and `conditioning` has 12"):
        GillPipeline(narrow, processor, small_generator("lcm"))


def test_steps_and_guidance_are_the_generators_own() -> None:
    assert pipeline("lcm").call_defaults() == {"num_inference_steps": 4, "guidance_scale": 8.5}
    assert pipeline("sdxl").config.guidance_scale == 5.0
    with pytest.raises(ValueError, match="LatentConsistencyModelPipeline takes no"):
        pipe = pipeline("lcm")
        pipe("a cat", latents=torch.zeros(1, 4, 8, 8), negative_prompt_embeds=torch.zeros(1, 77, 16), **call_of("lcm"))


def test_a_size_that_the_generator_would_round_is_refused() -> None:
    pipe = pipeline("flux")
    with pytest.raises(ValueError, match="`height` must be a positive multiple of 4, got 18"):
        pipe("a cat", height=18, decision="generate", force_image=True)

    class Rounds(diffusers.StableDiffusionPipeline):
        """Draws one size alone."""

        @functools.wraps(diffusers.StableDiffusionPipeline.__call__)
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **{**kwargs, "height": 16, "width": 16})

    generator = Rounds(**small_generator("stable-diffusion-1.5").components, requires_safety_checker=False)
    call = call_of("stable-diffusion-1.5")
    with pytest.raises(ValueError, match=r"Rounds rounds sizes: it generated 16 x 16 pixels .* `height` of 24"):
        pipeline("stable-diffusion-1.5", generator)("a cat", height=24, width=16, **call)


def test_each_image_has_its_own_control_image() -> None:
    pipe, call = pipeline("controlnet"), call_of("controlnet")
    noise = torch.randn(2, 4, 8, 8, generator=seeded())
    other = PHOTO.transpose(Image.Transpose.ROTATE_90)
    together = pipe(["a cat", "a dog"], latents=noise, **{**call, "image_generator_kwargs": {"image": [PHOTO, other]}})
    for number, (prompt, image) in enumerate((("a cat", PHOTO), ("a dog", other))):
        own = {**call, "image_generator_kwargs": {"image": image}}
        alone = pipe(prompt, latents=noise[number : number + 1], **own).images[0]
        assert np.abs(together.images[number] - alone).max() < 1e-4
    plain = pipe("a cat", latents=noise[:1], **{**call, "image_generator_kwargs": {"image": other}}).images[0]
    assert np.abs(together.images[0] - plain).max() > 1e-3


def test_components_are_read_and_set_through_to_the_generator() -> None:
    pipe = pipeline("flux")
    generator = pipe.image_generator
    assert pipe.transformer is generator.transformer and pipe.text_encoder_2 is generator.text_encoder_2
    assert not hasattr(pipe, "unet")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    pipe.scheduler = scheduler
    assert generator.scheduler is scheduler
    pipe.transformer = transformer = small_generator("flux").transformer
    assert generator.transformer is transformer
    with pytest.raises(ValueError, match="contradicts the image generator"):
        pipe.image_generator = small_generator("lcm")
    assert pipe.image_generator is generator


@pytest.mark.parametrize("stored", (False, True))
def test_components_of_stable_diffusion_in_the_root_are_loaded_as_one_generator(tmp_path, stored: bool) -> None:
    pipe, call = pipeline("stable-diffusion-1.5"), call_of("stable-diffusion-1.5")
    if stored:
        pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["stable-diffusion-1.5"])
    parts = {name: getattr(pipe, name) for name in GENERATOR_COMPONENTS}
    write_repository(
        tmp_path, pipe.model, pipe.processor, generator=parts, negative_conditioning=pipe.negative_conditioning
    )
    loaded = load(tmp_path)
    assert not (tmp_path / "image_generator").exists() and (tmp_path / "unet").is_dir()
    assert (loaded.text_encoder is None) == stored
    for negative in (None, "a dog"):
        wanted = pipe("a cat", negative_prompt=negative, generator=seeded(), **call).images
        found = loaded("a cat", negative_prompt=negative, generator=seeded(), **call).images
        assert np.abs(found - wanted).max() < 1e-5
    assert loaded.text_encoder is not None
    unet = pipe.unet
    assert GillPipeline.from_pretrained(tmp_path, unet=unet).unet is unet
    with pytest.raises(ValueError, match="has no component 'transformer'"):
        GillPipeline.from_pretrained(tmp_path, transformer=unet)
