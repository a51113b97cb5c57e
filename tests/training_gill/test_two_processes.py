"""Two processes have the gradients of one that holds the whole batch."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from training_gill.callbacks import SeededOrder
from training_gill.losses import global_contrast, retrieval_accuracy


def run_processes(
    command: list[str], processes: int, variables: dict[str, str] | None = None, float64: bool = True
) -> None:
    """Run the same command in so many processes that find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(variables or {})}
        if float64:
            environment["FLOAT64"] = "1"
        if processes > 1:
            environment |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "ACCELERATE_USE_CPU": "true",
            }
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert all(process.returncode == 0 for process in running), errors[0][-3000:]


def launch(recipe: Path, out: Path, processes: int, **options: object) -> dict[str, torch.Tensor]:
    """Gradients of the first step of a run of the training command."""
    options = {
        "max_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "panel_steps": 0,
        "use_cpu": "true",
        "disable_tqdm": "true",
        "max_grad_norm": 0,
        "output_dir": out,
        **options,
    }
    result = out.with_suffix(".pt")
    command = [sys.executable, "-m", "tests.training_gill.run_steps", str(recipe), str(result)]
    run_processes(
        [*command, *(word for name, value in options.items() for word in (f"--{name}", str(value)))], processes
    )
    return torch.load(result)["gradients"]


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Of float64: what is left is the order of sums."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float64
        assert float((found[name] - gradient).abs().max()) <= 1e-10 * float(gradient.abs().max()), name


@pytest.mark.slow
@pytest.mark.parametrize("accumulated", (1, 2))
def test_two_processes_give_the_gradients_of_one_with_the_whole_batch(recipe_file, tmp_path, accumulated):
    options = {"gradient_accumulation_steps": accumulated, "learning_rate": 1e-3}
    one = launch(recipe_file, tmp_path / "one", 1, per_device_train_batch_size=8, **options)
    two = launch(recipe_file, tmp_path / "two", 2, per_device_train_batch_size=4, **options)
    assert_same_gradients(two, one)


@pytest.mark.slow
def test_a_process_that_can_read_nothing_of_its_batch_neither_waits_nor_changes_the_gradients(
    recipe_file, own_world, tmp_path
):
    lines = (own_world / "train.tsv").read_text().splitlines()[:9]
    (own_world / "train.tsv").write_text("\n".join(lines) + "\n")
    entries = yaml.safe_load(recipe_file.read_text())
    cache = own_world / "cache"
    shutil.copytree(f"{entries['cache']}/text_targets", cache / "text_targets")  # no features: images are opened
    recipe_file.write_text(yaml.safe_dump({**entries, "train_data": str(own_world / "train.tsv"), "cache": str(cache)}))
    for number in list(SeededOrder(range(8), seed=42))[4:]:  # the second batch of four, the second process's
        (own_world / "images" / f"train-{number:05d}.png").write_bytes(b"broken")
    one = launch(recipe_file, tmp_path / "one", 1, per_device_train_batch_size=8, seed=42)
    two = launch(recipe_file, tmp_path / "two", 2, per_device_train_batch_size=4, seed=42)
    assert_same_gradients(two, one)


@pytest.mark.slow
def test_two_processes_that_share_the_weights_in_parts_give_them_too(golden_repository, tmp_path):
    for processes in (1, 2):
        command = [sys.executable, "-m", "tests.training_gill.sharded_step", str(golden_repository)]
        run_processes([*command, str(tmp_path / f"{processes}.pt")], processes)
    assert_same_gradients(torch.load(tmp_path / "2.pt"), torch.load(tmp_path / "1.pt"))


def test_retrieval_accuracy_counts_both_ways():
    scores = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.8], [0.1, 0.2, 0.7]])  # images x captions
    found = retrieval_accuracy(scores)
    # The third caption prefers the second image; the second image prefers the third caption.
    assert float(found["caption_to_image_top1"]) == pytest.approx(2 / 3)
    assert float(found["image_to_caption_top1"]) == pytest.approx(2 / 3)
    assert float(found["caption_to_image_top5"]) == 1


def test_equal_scores_find_nothing():
    assert float(retrieval_accuracy(torch.zeros(10, 10))["caption_to_image_top5"]) == 0


def test_no_pairs_are_a_loss_of_zero():
    none = torch.zeros(0, 4, requires_grad=True)
    found = global_contrast(none, none, torch.tensor(1.0))
    assert float(found.loss_sum.detach()) == 0
    assert found.pairs == 0
