"""The seeded DreamLLM of the golden outputs, and the repositories converted from it."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

# As in `conftest.py`, the libraries are imported where they are used.
if TYPE_CHECKING:
    from modeling_gill import GillForConditionalGeneration
    from pipeline_gill import GillPipeline

DREAM = Path(__file__).parent / "golden" / "dream"
# Of the norm, as the goldens' README asks for; after an image that was read back, more.
RELATIVE, READ_BACK = 1e-4, 2e-2


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
    from conversion import convert

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


@pytest.fixture(scope="session")
def dream_pipeline(dream_repository: Path) -> "GillPipeline":
    """A pipeline over the converted DreamLLM. Shared: what a test sets on it, it sets back."""
    from pipeline_gill import GillPipeline

    pipeline = GillPipeline.from_pretrained(dream_repository)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_close(found: Any, expected: np.ndarray, tolerance: float = RELATIVE) -> None:
    found = found.detach().float().numpy() if hasattr(found, "detach") else np.asarray(found)
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def assert_images(found: list[Image.Image], expected: np.ndarray, grey_levels: int = 1) -> None:
    shown = np.stack([np.asarray(image) for image in found]).astype(int)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).max() <= grey_levels


def as_authors(ids: Any, model: "GillForConditionalGeneration") -> list[Any]:
    import torch

    ids = torch.as_tensor(ids)
    queries = torch.tensor(model.config.image_output_token_ids)
    return torch.where(torch.isin(ids, queries), model.config.image_token_id, ids).tolist()


def prompt_of(parts: Any, images: list[Image.Image], chat: bool = False) -> Any:
    parts = [parts] if isinstance(parts, str) else parts
    shown = [images[part["image"]] if isinstance(part, dict) else part for part in parts]
    if not chat:
        return shown
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in shown
    ]
    return [{"role": "user", "content": content}]


def generators_of(seed: Any) -> Any:
    import torch

    return [generators_of(one) for one in seed] if isinstance(seed, list) else torch.Generator().manual_seed(seed)
