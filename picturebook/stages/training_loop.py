"""Train one module for a fixed number of steps; stopped at any moment, the same call goes on from the last checkpoint.

Batches and noise follow from the number of the step alone, so a run that was stopped ends as one that was not.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import PreTrainedModel

_CHECKPOINT = "step-{}"
_SECONDS_BETWEEN_CHECKPOINTS, _LINES = 120.0, 20


@dataclass(frozen=True)
class Schedule:
    """How long a module is trained, and how fast.

    Attributes:
        steps: Of the optimiser.
        batch_size: Examples a step.
        learning_rate: Reached after `warmup` steps, kept, and lowered along a cosine over the last `decay` of all.
        ema: Decay of the moving average of the weights, which is what is kept; 0 keeps the weights themselves.
        weight_decay: Of AdamW.
        bf16: Compute in bfloat16 where that loses nothing; weights stay float32.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 50
    decay: float = 0.5
    ema: float = 0.0
    weight_decay: float = 0.01
    bf16: bool = False


LossOfStep = Callable[[int, torch.Generator], torch.Tensor]


def run_training(
    name: str, module: nn.Module, schedule: Schedule, loss_of_step: LossOfStep, folder: Path, seed: int = 0
) -> float:
    """Train a module in place.

    Args:
        name (`str`): Of the stage, for the lines that are printed.
        module: What is trained; all its parameters that require gradients. It ends on the CPU, in evaluation mode.
        loss_of_step: Called with the number of a step and a generator (CPU) of its own; returns the loss.
        folder (`Path`): For checkpoints, to be removed by [`remove_checkpoints`].

    Returns:
        `float`: Seconds that training took, over all calls.
    """
    set_seed(seed)
    accelerator = Accelerator()
    # For heads as narrow as here, torch's fused attention takes ten times as long backwards on a CPU in bfloat16.
    models = [one for one in module.modules() if isinstance(one, PreTrainedModel)] if schedule.bf16 else []
    usual = [one.config._attn_implementation for one in models]
    for one in models:
        one.set_attn_implementation("eager")
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, schedule))
    module, optimizer, rate = accelerator.prepare(module.train(), optimizer, rate)
    clock = _Clock()
    average = EMAModel(trained, decay=schedule.ema, use_ema_warmup=True, power=0.75) if schedule.ema else None
    accelerator.register_for_checkpointing(*(one for one in (clock, average) if one is not None))
    start = _resume(accelerator, folder)
    if start:
        print(f"{name}: goes on from step {start:,} of {schedule.steps:,}", flush=True)
    losses: list[float] = []
    saved = begun = time.monotonic()
    for step in range(start, schedule.steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=schedule.bf16):
            loss = loss_of_step(step, generator)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if average is not None:
            average.step(trained)
        losses.append(float(loss.detach()))
        done, now = step + 1, time.monotonic()
        if done % max(schedule.steps // _LINES, 1) == 0:
            took = clock.seconds + now - begun
            print(
                f"{name}: step {done:,} of {schedule.steps:,}, loss {sum(losses) / len(losses):.4f}, "
                f"{took / 60:.1f} min",
                flush=True,
            )
            losses.clear()
        if now - saved > _SECONDS_BETWEEN_CHECKPOINTS and done < schedule.steps:
            clock.seconds += now - begun
            saved = begun = now
            _save(accelerator, folder, done)
    if average is not None:
        average.copy_to(trained)
    clock.seconds += time.monotonic() - begun
    accelerator.unwrap_model(module).to("cpu").eval()
    for one, attention in zip(models, usual, strict=True):
        one.set_attn_implementation(attention)
    return clock.seconds


@dataclass(frozen=True)
class Part:
    """A part of a training that has several, one after the other.

    Attributes:
        schedule, loss_of_step: As [`run_training`] takes them.
        frozen: Modules that stay as they are in this part.
    """

    schedule: Schedule
    loss_of_step: LossOfStep
    frozen: Sequence[nn.Module] = ()


def run_parts(name: str, module: nn.Module, parts: Sequence[Part], folder: Path, seed: int = 0) -> float:
    """[`run_training`] for each part; those that are done are not done again.

    Args:
        folder (`Path`): A folder in it for each part; to be removed at the end by [`remove_checkpoints`].

    Returns:
        `float`: Seconds that training took, over all parts.
    """
    seconds = 0.0
    for number, part in enumerate(parts, start=1):
        whole = folder / f"part-{number}.safetensors"
        if whole.exists():
            seconds += float(load_metadata(whole)["seconds"])
            load_model(module, whole)
            continue
        for frozen in part.frozen:
            frozen.requires_grad_(False)
        called = f"{name}, part {number}" if len(parts) > 1 else name
        took = run_training(called, module, part.schedule, part.loss_of_step, folder / str(number), seed)
        for frozen in part.frozen:
            frozen.requires_grad_(True)
        seconds += took
        partial = whole.with_suffix(".partial")
        save_model(module, str(partial), metadata={"seconds": str(took)})
        partial.rename(whole)
    return seconds


def load_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def remove_checkpoints(folder: Path) -> None:
    """Remove a stage's checkpoints, once what they were for is written."""
    shutil.rmtree(folder, ignore_errors=True)


class _Clock:
    """Seconds of training before the last checkpoint."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]


def _rate(step: int, schedule: Schedule) -> float:
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    lowered = max(int(schedule.steps * schedule.decay), 1)
    left = min((schedule.steps - step) / lowered, 1.0)
    return 0.02 + 0.98 * 0.5 * (1 - float(torch.cos(torch.tensor(torch.pi * left))))


def _save(accelerator: Accelerator, folder: Path, step: int) -> None:
    before = list(folder.glob(_CHECKPOINT.format("*")))
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    accelerator.save_state(str(partial))
    partial.rename(folder / _CHECKPOINT.format(step))
    for old in before:
        shutil.rmtree(old)


def _resume(accelerator: Accelerator, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    steps = [int(path.name.rpartition("-")[2]) for path in folder.glob(_CHECKPOINT.format("*"))]
    if not steps:
        return 0
    accelerator.load_state(str(folder / _CHECKPOINT.format(max(steps))))
    return max(steps)
