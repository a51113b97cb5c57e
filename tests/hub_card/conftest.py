"""A small GILL repository with a retrieval set, all of it in a few hundred kilobytes."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline_gill import GillPipeline, RetrievalSet
from tests.small_model import small_model, small_processor


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A retrieval set of four images for the weights of `small_repository`."""
    processor = small_processor()
    model = small_model(processor)
    images = [(Image.new("RGB", (16, 16), (60 * number, 0, 0)), f"red {number}") for number in range(4)]
    out = tmp_path_factory.mktemp("sets") / "set"
    RetrievalSet.build(model, processor, images, progress=False, source="four reds").save(out)
    return out


@pytest.fixture(scope="session")
def _small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    processor = small_processor()
    out = tmp_path_factory.mktemp("small") / "gill"
    GillPipeline(small_model(processor), processor, None).save_pretrained(out)
    return out


@pytest.fixture
def small_repository(_small_repository: Path, tmp_path: Path) -> Path:
    """A fresh copy of a self-contained GILL without an image generator."""
    import shutil

    return Path(shutil.copytree(_small_repository, tmp_path / "gill"))
