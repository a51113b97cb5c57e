"""What a user does with another generator, from the commands to LoRA and a ControlNet."""

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from gill.cli import main
from pipeline_gill import GillPipeline
from tests.small_generators import PHOTO, small_generator
from tests.training_gill.conftest import FEW_STEPS
from tests.variant_generators import sd3_controlnet


def write_generator(folder: Path) -> None:
    """A small Stable Diffusion 3 of two layers: on the last one a ControlNet has no effect."""
    small = small_generator("stable-diffusion-3")
    torch.manual_seed(0)
    small.transformer = type(small.transformer).from_config({**small.transformer.config, "num_layers": 2})
    with torch.no_grad():
        for weight in small.transformer.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    small.save_pretrained(folder)


def write_lora(folder: Path) -> None:
    """A LoRA of the small Stable Diffusion 3, as scripts of diffusers save one."""
    transformer = small_generator("stable-diffusion-3").transformer
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusion3Pipeline.save_lora_weights(folder, get_peft_model_state_dict(transformer))


@pytest.mark.slow
def test_a_generator_is_precomputed_trained_for_and_then_takes_lora_and_a_controlnet(
    recipe_file: Path, small_world: Path, tmp_path: Path
) -> None:
    generator, bare, cache, out = (tmp_path / name for name in ("sd3", "bare", "cache", "gill"))
    write_generator(generator)
    captions = [word for name in ("train", "validation") for word in ("--dataset", str(small_world / f"{name}.tsv"))]
    options = ["--dtype", "float32", "--device", "cpu", "--out", str(cache)]
    assert main(["precompute", "--generator", str(generator), *captions, *options]) == 0

    # The text encoders are not needed again.
    shutil.move(generator, bare)
    shutil.copytree(bare, generator, ignore=shutil.ignore_patterns("text_encoder*", "tokenizer*"))
    entries: dict[str, Any] = {**FEW_STEPS, "image_generator": generator, "cache": cache, "output_dir": out}
    words = [word for name, value in entries.items() for word in (f"--{name}", str(value))]
    assert main(["train", str(recipe_file), *words]) == 0

    pipe = GillPipeline.from_pretrained(out, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.image_generator.text_encoder_3 is None and pipe.transformer.dtype == torch.bfloat16

    def draw(**kwargs: Any) -> np.ndarray:
        seed, steps = torch.Generator().manual_seed(3), {"num_inference_steps": 2, "output_type": "np"}
        return pipe("a red circle", decision="generate", force_image=True, generator=seed, **steps, **kwargs).images

    plain = draw()
    write_lora(tmp_path / "lora")
    pipe.image_generator.load_lora_weights(tmp_path / "lora")
    assert np.abs(draw() - plain).max() > 1e-3
    pipe.image_generator.unload_lora_weights()
    assert np.array_equal(draw(), plain)

    network = sd3_controlnet().controlnet.to(torch.bfloat16)
    with torch.no_grad():
        for weight in network.parameters():  # begins with zeros, which change nothing
            weight.add_(torch.randn_like(weight) * 0.05)
    pipe.image_generator = diffusers.StableDiffusion3ControlNetPipeline(
        **pipe.image_generator.components, controlnet=network
    )
    pipe.set_progress_bar_config(disable=True)
    images = [
        draw(image_generator_kwargs={"control_image": image, "controlnet_conditioning_scale": 0.1})
        for image in (PHOTO, Image.new("RGB", PHOTO.size))
    ]
    assert np.abs(images[0] - plain).max() > 1e-3
    assert np.abs(images[0] - images[1]).max() > 1e-3
