"""The seeded DreamLLM of the golden outputs, and the repositories converted from it."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

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
