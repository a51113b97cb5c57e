"""A run that is killed and started again ends with the weights of one that never was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from training_gill.whole_checkpoints import clear_staging, last_checkpoint, put_in_place, staging_folder

# 20 examples in batches of 4: five steps an epoch, so that steps 3, 6 and 8 lie in two epochs.
OPTIONS = {
    "max_steps": 9,
    "per_device_train_batch_size": 4,
    "save_steps": 2,
    "eval_strategy": "no",
    "panel_steps": 0,
    "use_cpu": "true",
    "disable_tqdm": "true",
    "max_length": 20,
}


@pytest.fixture
def short_recipe(recipe_file: Path, own_world: Path, tmp_path: Path):
    lines = (own_world / "train.tsv").read_text().splitlines()[:21]
    (own_world / "train.tsv").write_text("\n".join(lines) + "\n")
    text = recipe_file.read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith(("train_data", "validation_data")))
    recipe_file.write_text(f"{text}\ntrain_data: {own_world / 'train.tsv'}\n")
    return recipe_file


def run(recipe: Path, out: Path, **environment: str) -> tuple[int, Path]:
    result = out.with_suffix(".pt")
    options = [word for name, value in {**OPTIONS, "output_dir": out}.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.training_gill.run_steps", str(recipe), str(result), *options]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return done.returncode, result


@pytest.mark.slow
def test_killed_at_any_step_and_resumed_gives_bit_identical_weights(short_recipe, tmp_path):
    code, never_killed = run(short_recipe, tmp_path / "never")
    assert code == 0
    out = tmp_path / "killed"
    # Between two checkpoints of the first epoch; while the checkpoint of step 6 is written, in the second.
    assert run(short_recipe, out, KILL_AT_STEP="3")[0] == -signal.SIGKILL
    assert last_checkpoint(out) == str(out / "checkpoint-2")
    assert run(short_recipe, out, KILL_WHILE_SAVING="6")[0] == -signal.SIGKILL
    assert staging_folder(out).exists()
    assert last_checkpoint(out) == str(out / "checkpoint-4")
    code, resumed = run(short_recipe, out)
    assert code == 0
    expected, found = torch.load(never_killed)["weights"], torch.load(resumed)["weights"]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not staging_folder(out).exists()


def test_a_checkpoint_that_is_not_whole_is_never_picked_up(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    half = staging_folder(tmp_path) / "checkpoint-4"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half of i")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    clear_staging(tmp_path)
    assert not half.exists()


def test_a_whole_checkpoint_takes_the_place_of_an_older_one_of_the_same_step(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "old").touch()
    staged = staging_folder(tmp_path) / "checkpoint-2"
    staged.mkdir(parents=True)
    (staged / "new").touch()
    assert [path.name for path in put_in_place(tmp_path, "checkpoint-2").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_no_folder_has_no_checkpoint(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
