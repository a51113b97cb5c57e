"""The repository of the world's GILL: half precision, small images, nothing lost."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from picturebook.stages.assemble_repository import halve_weights, small_file
from picturebook.world.pairs import draw_all, sample_pairs
from picturebook.world.scene import retrievable_scenes
from picturebook.world.splits import TEST, stream


def test_small_files_are_lossless() -> None:
    images = draw_all(retrievable_scenes()[::700], stream(0, TEST, "small"))
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    for image in (*images, noise):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(small_file(image))).convert("RGB")), image)


def test_small_files_are_below_350_bytes() -> None:
    images = sample_pairs(TEST, 40, stream(0, TEST, "small")).images
    assert np.mean([len(small_file(image)) for image in images]) < 350


def test_float_weights_are_halved_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    save_file({"a": torch.ones(3) / 3, "ids": torch.arange(3)}, tmp_path / "part" / "model.safetensors")
    halve_weights(tmp_path)
    found = load_file(tmp_path / "part" / "model.safetensors")
    assert found["a"].dtype == torch.float16 and found["ids"].dtype == torch.int64
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["model.safetensors"]
