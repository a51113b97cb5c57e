"""The small world is the same again, and its images show what their captions say."""

import numpy as np

from gill import cli
from training_gill.small_data import COLOURS, caption_of, draw, scenes, write_images


def test_every_scene_has_a_caption_of_its_own():
    assert len({caption_of(scene) for scene in scenes()}) == len(scenes()) == 256


def test_an_image_has_the_colour_that_its_caption_says():
    rng = np.random.default_rng(0)
    for scene in scenes():
        pixels = np.asarray(draw(scene, rng)).reshape(-1, 3)
        assert (pixels == COLOURS[scene[1]]).all(1).any()


def test_the_same_seed_draws_the_same_images(tmp_path):
    for name in ("one", "two"):
        write_images(tmp_path / name, train=3, validation=2, seed=5)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 7
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in files)


def test_the_command_writes_data_and_models(tmp_path, capsys):
    assert cli.main(["small-data", str(tmp_path / "small"), "--train", "4", "--validation", "2", "--steps", "1"]) == 0
    assert "wrote 4 + 2 images" in capsys.readouterr().out
    assert {"language_model", "vision_model", "image_generator"} == {
        path.name for path in (tmp_path / "small" / "models").iterdir()
    }
