"""Where a pipeline's parts are kept in memory, and in which precision: of the model and of any image generator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, PipelineQuantizationConfig
from diffusers.models.attention_processor import SlicedAttnProcessor
from transformers import BitsAndBytesConfig

from pipeline_gill import GillPipeline
from pipeline_gill.generator_loading_gill import quantization_of
from tests.pipeline_gill.test_whole_generator import call_of, pipeline, seeded

# On a machine without accelerator, from the CPU to the CPU: all hooks run.
PLACEMENTS: dict[str, Callable[[GillPipeline], Any]] = {
    "model": lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
    "sequential": lambda pipe: pipe.enable_sequential_cpu_offload(device="cpu"),
    "group": lambda pipe: pipe.enable_group_offload(
        torch.device("cpu"), offload_type="leaf_level", exclude_modules=["model", "vae"]
    ),
}


@pytest.mark.parametrize("kind", ("stable-diffusion-1.5", "sdxl", pytest.param("flux", marks=pytest.mark.slow)))
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_offloaded_pipeline_draws_the_same_twice(kind: str, placement: str) -> None:
    pipe, call = pipeline(kind), call_of(kind)
    wanted = pipe("a cat", generator=seeded(), **call).images
    PLACEMENTS[placement](pipe)
    denoiser = pipe.image_generator.components.get("unet") or pipe.transformer
    if placement == "group":
        assert any(hasattr(layer, "_diffusers_hook") for layer in denoiser.modules())
    else:
        assert denoiser._hf_hook is not None
        assert hasattr(pipe.model, "_hf_hook") == (placement == "model")
    if placement == "sequential":
        assert {weight.device.type for weight in denoiser.parameters()} == {"meta"}
        assert {weight.device.type for weight in pipe.model.parameters()} == {"cpu"}
    for _ in range(2):
        assert np.abs(pipe("a cat", generator=seeded(), **call).images - wanted).max() < 1e-4
    if placement != "group":
        pipe.remove_all_hooks()
        assert not hasattr(denoiser, "_hf_hook") and not hasattr(pipe.model, "_hf_hook")


def test_attention_is_computed_in_slices_of_the_generator() -> None:
    pipe, call = pipeline("stable-diffusion-1.5"), call_of("stable-diffusion-1.5")
    wanted = pipe("a cat", generator=seeded(), **call).images
    pipe.enable_attention_slicing(1)
    assert all(isinstance(processor, SlicedAttnProcessor) for processor in pipe.unet.attn_processors.values())
    assert np.abs(pipe("a cat", generator=seeded(), **call).images - wanted).max() < 1e-4
    pipe.disable_attention_slicing()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a whole generator."""
    folder = tmp_path_factory.mktemp("flux") / "gill"
    pipeline("flux").save_pretrained(folder, self_contained=True)
    return folder


@pytest.mark.parametrize("device_map", ("cpu", "balanced"))
def test_a_device_map_reaches_every_part(repository: Path, device_map: str) -> None:
    pipe = GillPipeline.from_pretrained(repository, device_map=device_map)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.model.device.type, pipe.transformer.device.type} == {"cpu"}
    assert pipe("a cat", height=16, width=16, **call_of("flux")).images.shape == (1, 16, 16, 3)
    if device_map == "balanced":
        assert "model" in pipe.hf_device_map


def test_dtypes_are_set_part_by_part(repository: Path) -> None:
    dtypes = {"model": torch.float32, "transformer": torch.bfloat16, "default": torch.float16}
    pipe = GillPipeline.from_pretrained(repository, dtype=dtypes)
    assert (pipe.model.dtype, pipe.transformer.dtype, pipe.vae.dtype) == (torch.float32, torch.bfloat16, torch.float16)


def test_quantization_reaches_the_model_and_parts_of_the_generator(repository: Path, monkeypatch: Any) -> None:
    seen: dict[str, Any] = {}

    class Seen(Exception):
        pass

    def record(cls: Any, *args: Any, **kwargs: Any) -> None:
        seen[cls.__name__] = kwargs.get("quantization_config")
        raise Seen

    config = BitsAndBytesConfig(load_in_8bit=True)
    both = PipelineQuantizationConfig(quant_mapping={"model": config, "transformer": config})
    pipe = GillPipeline.from_pretrained(repository)
    parts = {"image_generator": pipe.image_generator}, {"model": pipe.model}
    for owner, options in zip((type(pipe.model), FluxTransformer2DModel), parts, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "from_pretrained", classmethod(record))
            with pytest.raises(Seen):
                GillPipeline.from_pretrained(repository, quantization_config=both, **options)
    assert seen == {"GillForConditionalGeneration": config, "FluxTransformer2DModel": config}
    wrong = PipelineQuantizationConfig(quant_mapping={"unet": config})
    with pytest.raises(ValueError, match="`quantization_config` names 'unet', which is neither"):
        GillPipeline.from_pretrained(repository, quantization_config=wrong)


def test_a_quantization_is_divided_among_the_repositories() -> None:
    config = BitsAndBytesConfig(load_in_8bit=True)
    of_model = PipelineQuantizationConfig(quant_mapping={"model": config})
    assert quantization_of(of_model, ("transformer",)) is None and quantization_of(None, ("model",)) is None
    assert quantization_of(of_model, ("model",)).quant_mapping == {"model": config}
