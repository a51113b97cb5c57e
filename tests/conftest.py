"""What all tests share: the seeded world of the golden outputs, and the repositories converted from it."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

# Before any import of huggingface_hub, which reads them once: no test may leave this machine, and what tests cache and
# sign stays out of the user's home directory.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="gill-tests-")

import numpy as np
import pytest
from PIL import Image

# The libraries are imported where they are used: a process that hands tests to others loads this file before it
# starts them, and runs none.
if TYPE_CHECKING:
    from modeling_gill import GillForConditionalGeneration, GillProcessor
    from pipeline_gill import GillPipeline

pytest_plugins = ["tests.hub_fixtures", "tests.dream_fixtures"]

GOLDEN = Path(__file__).parent / "golden"


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


def make_checkpoint() -> ModuleType:
    """The script that makes the seeded world, as a module."""
    spec = importlib.util.spec_from_file_location("make_checkpoint", GOLDEN / "make_checkpoint.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded backbones, a release of GILL and one of FROMAGe in the authors' layout, and images."""
    folder = tmp_path_factory.mktemp("world")
    make_checkpoint().write(str(folder))
    return folder


def convert_golden(system: str, world: Path, original: str, out: Path) -> Path:
    """Convert a release of the seeded world, in float32."""
    from conversion import convert

    generator = {"image_generator": str(world / "sd-golden")} if system == "gill" else {}
    convert(
        system,
        world / original,
        out,
        language_model=str(world / "facebook/opt-golden"),
        vision_model=str(world / "clip-golden"),
        image_folder=world,
        dtype="float32",
        verify=True,
        **generator,
    )
    return out


@pytest.fixture(scope="session")
def golden_repository(golden_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded GILL as a Hub repository in float32."""
    out = tmp_path_factory.mktemp("converted") / "gill"
    return convert_golden("gill", golden_world, "gill_opt", out)


@pytest.fixture(scope="session")
def golden_fromage_repository(golden_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The seeded FROMAGe as a Hub repository in float32."""
    out = tmp_path_factory.mktemp("converted") / "fromage"
    return convert_golden("fromage", golden_world, "fromage_model", out)


@pytest.fixture(scope="session")
def golden_pipeline(golden_repository: Path) -> "GillPipeline":
    """A pipeline over the converted GILL. Shared: what a test sets on it, it sets back."""
    from pipeline_gill import GillPipeline

    pipeline = GillPipeline.from_pretrained(golden_repository)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def golden_model(golden_pipeline: "GillPipeline") -> "GillForConditionalGeneration":
    return golden_pipeline.model


@pytest.fixture(scope="session")
def golden_processor(golden_pipeline: "GillPipeline") -> "GillProcessor":
    return golden_pipeline.processor


@pytest.fixture(scope="session")
def golden_cases() -> dict[str, list[dict[str, Any]]]:
    return json.loads((GOLDEN / "cases.json").read_text())


@pytest.fixture(scope="session")
def gill_arrays() -> dict[str, np.ndarray]:
    """What the authors' GILL answered."""
    with np.load(GOLDEN / "gill.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def fromage_arrays() -> dict[str, np.ndarray]:
    """What the authors' FROMAGe answered."""
    with np.load(GOLDEN / "fromage.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="session")
def images(golden_world: Path) -> list[Image.Image]:
    """The 24 images of the seeded world."""
    return [Image.open(path).convert("RGB") for path in sorted((golden_world / "pictures").glob("*.png"))]


@pytest.fixture(scope="session", autouse=True)
def threads_of_a_worker() -> None:
    """The tests run side by side; more threads than cores would only wait for each other."""
    if "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))


@pytest.fixture(autouse=True)
def quiet_libraries() -> Iterator[None]:
    """No progress bars of loading between the dots of the tests."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    yield
