"""A run that is killed and started again ends with the weights of one that never was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_gill import GillForConditionalGeneration
from training_gill import train, training
from training_gill.checkpoints import clear_staging, last_checkpoint, only_writer, put_in_place, staging_folder
from training_gill.recipe import RecipeError
from training_gill.trainer import GillTrainer

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


def weights_of(out):
    return load_file(out / "model.safetensors")


def test_a_finished_training_started_again_trains_nothing(recipe_with, tmp_path, capsys, monkeypatch):
    options = {"max_steps": 2, "save_steps": 1}
    metrics = train(recipe_with(**options))
    before = weights_of(tmp_path / "out")
    capsys.readouterr()
    monkeypatch.setattr(training, "build_model", lambda *_: pytest.fail("the model was loaded"))
    assert train(recipe_with(**options)) == metrics
    assert "is finished" in capsys.readouterr().out
    after = weights_of(tmp_path / "out")
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_without_checkpoints_a_finished_training_started_again_trains_nothing(recipe_with, monkeypatch):
    metrics = train(recipe_with(max_steps=1, save_strategy="no"))
    monkeypatch.setattr(training, "build_model", lambda *_: pytest.fail("the model was loaded"))
    assert train(recipe_with(max_steps=1, save_strategy="no")) == metrics


@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_steps": -1, "num_train_epochs": 0.1}])
def test_killed_before_the_repository_is_written_it_is_only_written(length, recipe_with, tmp_path, monkeypatch):
    options = {**length, "save_steps": 1, "per_device_train_batch_size": 8}
    steps = []
    compute = GillTrainer.compute_loss

    def counted(self, *args, **kwargs):
        steps.append(None)
        return compute(self, *args, **kwargs)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(GillTrainer, "compute_loss", counted)
    write = training.write_repository
    monkeypatch.setattr(training, "write_repository", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe_with(**options))
    out = tmp_path / "out"
    trained = len(steps)
    assert trained >= 3 and not (out / "config.json").exists()
    monkeypatch.setattr(training, "write_repository", write)
    train(recipe_with(**options))
    assert len(steps) == trained
    before, after = weights_of(Path(last_checkpoint(out))), weights_of(out)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert GillForConditionalGeneration.from_pretrained(out).config.num_visual_tokens == 2
    record = json.loads((out / "training.json").read_text())
    assert record["steps"] == trained
    assert not (out / ".training.lock").exists()


def test_a_training_with_more_steps_goes_on_from_the_last_checkpoint(recipe_with, tmp_path):
    train(recipe_with(max_steps=1, save_steps=1))
    train(recipe_with(max_steps=3, save_steps=1))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["steps"] == 3


def test_of_two_trainings_into_one_folder_the_second_is_refused(recipe_with, tmp_path):
    with only_writer(tmp_path / "out"), pytest.raises(BlockingIOError, match="Another process"):
        train(recipe_with(max_steps=1))


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", b"broken"), ("trainer_state.json", b"{"), ("trainer_state.json", b"[]")]
)
def test_a_damaged_checkpoint_is_named(name, content, recipe_with, tmp_path):
    train(recipe_with(max_steps=1, save_steps=1))
    (tmp_path / "out" / "checkpoint-1" / name).write_bytes(content)
    with pytest.raises(RecipeError, match="checkpoint-1"):
        train(recipe_with(max_steps=2, save_steps=1))


def test_what_a_person_put_into_the_folder_stays(recipe_with, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    (tmp_path / "out" / "model-00001-of-00002.safetensors").write_bytes(b"of an older model")
    train(recipe_with(max_steps=1, save_steps=1))
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    assert not (tmp_path / "out" / "model-00001-of-00002.safetensors").exists()
