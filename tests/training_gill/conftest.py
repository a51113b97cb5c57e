"""A small world to train in: drawn images, small frozen models, and the cache that training reads."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_gill import GillProcessor
from training_gill import PrecomputeArguments, Recipe, precompute, read_recipe, small_data
from training_gill.recipe import RECIPES

# Options of a quick run; nothing is evaluated.
FEW_STEPS: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 8,
    "eval_strategy": "no",
    "panel_steps": 0,
    "disable_tqdm": True,
    "use_cpu": True,
    "save_steps": 1000,
}


@pytest.fixture(autouse=True)
def one_thread():
    """So that sums are made in one order, whatever else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def dream_processor(dream_repository: Path) -> GillProcessor:
    """Of the seeded DreamLLM: eight queries, 16 patches, Vicuna's template."""
    return GillProcessor.from_pretrained(dream_repository)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.tsv`, `validation.tsv`, `decisions.tsv`, `images/`, `models/` and `cache/`."""
    return write_world(tmp_path_factory.mktemp("small"), steps=5)


def write_world(out: Path, steps: int) -> Path:
    """A small world whose frozen models were trained for `steps` steps; 200 teach them what adapters can build on."""
    torch.set_num_threads(1)
    small_data.write_images(out, train=256, validation=64)
    small_data.write_decisions(out)
    small_data.write_models(out, steps=steps)
    precompute(
        PrecomputeArguments(
            [str(out / "train.tsv"), str(out / "validation.tsv")],
            str(out / "cache"),
            image_generator=str(out / "models" / "image_generator"),
            image_features=True,
            vision_model=str(out / "models" / "vision_model"),
            device="cpu",
        )
    )
    return out


def write_recipe(world: Path, out: Path, place: Path) -> Path:
    """The shipped small recipe over a small world, with its output in `out`."""
    shipped = (RECIPES / "small.yaml").read_text()
    place.write_text(shipped.replace("small/gill", str(out)).replace("small/", f"{world}/"))
    return place


@pytest.fixture
def recipe_file(small_world: Path, tmp_path: Path) -> Path:
    """The shipped small recipe, over the small world, without what takes time."""
    return write_recipe(small_world, tmp_path / "out", tmp_path / "recipe.yaml")


@pytest.fixture
def recipe_with(recipe_file: Path) -> Callable[..., Recipe]:
    """The recipe with options of the command line; few steps, nothing evaluated, unless said otherwise."""

    def read(**options: Any) -> Recipe:
        return read_recipe(recipe_file, **{**FEW_STEPS, **options})

    return read


@pytest.fixture
def own_world(small_world: Path, tmp_path: Path) -> Path:
    """A copy of the small world's data that a test may spoil; models and cache are shared."""
    own = tmp_path / "own"
    shutil.copytree(small_world / "images", own / "images")
    for name in ("train.tsv", "validation.tsv"):
        shutil.copy(small_world / name, own / name)
    return own
