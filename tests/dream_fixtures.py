"""The seeded DreamLLM of the golden outputs, and the repositories converted from it."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conversion import convert

DREAM = Path(__file__).parent / "golden" / "dream"


def make_dream_checkpoint() -> ModuleType:
    """The script that makes the seeded release, as a module."""
    spec = importlib.util.spec_from_file_location("make_dream_checkpoint", DREAM / "make_dream_checkpoint.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dream_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of DreamLLM in the authors' layout, its image encoder, its image generator, and images."""
    folder = tmp_path_factory.mktemp("dream-world")
    make_dream_checkpoint().write(str(folder))
    return folder


@pytest.fixture(scope="session")
def dream_cases() -> dict[str, list[Any]]:
    return json.loads((DREAM / "cases.json").read_text())


@pytest.fixture(scope="session")
def dream_arrays() -> dict[str, np.ndarray]:
    """What the authors' DreamLLM answered."""
    with np.load(DREAM / "dream.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def dream_images(dream_world: Path) -> list[Image.Image]:
    """The 12 images of the seeded world."""
    return [Image.open(path).convert("RGB") for path in sorted((dream_world / "pictures").glob("*.png"))]


def convert_dream(world: Path, out: Path, **options: Any) -> Path:
    """Convert the release of a seeded world, in float32."""
    convert(
        "dreamllm",
        world / "dreamllm",
        out,
        vision_model=str(world / "clip-dream"),
        image_generator=str(world / "sd-dream"),
        dtype="float32",
        verify=True,
        **options,
    )
    return out


@pytest.fixture(scope="session")
def dream_repository(dream_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded DreamLLM as a Hub repository in float32, its language model inside."""
    return convert_dream(dream_world, tmp_path_factory.mktemp("converted") / "dreamllm")
