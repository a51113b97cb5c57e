"""Training of one module with transformers' Trainer, resumed from its last checkpoint when it was stopped.

Batches and noise depend on the number of the step alone, so that a run which was stopped ends like one that was not.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import ExportableState

from modeling_gill.atomic_write_gill import replace_file

SECONDS_BETWEEN_CHECKPOINTS = 120.0
_NUM_LINES = 20
_EMA_FILE = "ema.pt"


@dataclass(frozen=True)
class Schedule:
    """How long a module is trained, and how fast.

    Attributes:
        steps: Optimizer steps.
        batch_size: Examples per step.
        learning_rate: Reached after `warmup` steps, kept, and decayed along a cosine over the last part of all steps,
            of which `decay` is the share.
        ema: Decay of the moving average of the weights, which is the result; 0: the weights themselves are.
        weight_decay: Of AdamW.
        bf16: Whether to compute in bfloat16 by autocast. Weights stay float32.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 50
    decay: float = 0.5
    ema: float = 0.0
    weight_decay: float = 0.01
    bf16: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of `learning_rate`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        remaining = min((self.steps - step) / max(int(self.steps * self.decay), 1), 1.0)
        return 0.02 + 0.98 * 0.5 * (1 - float(torch.cos(torch.tensor(torch.pi * remaining))))


LossOfStep = Callable[[int, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Part:
    """A part of the training of a module.

    Attributes:
        schedule: How long and how fast.
        loss_of_step: Called with the number of a step and a CPU generator of its own; returns the loss.
        frozen: Modules that are not trained in this part.
    """

    schedule: Schedule
    loss_of_step: LossOfStep
    frozen: Sequence[nn.Module] = ()


def run_parts(name: str, module: nn.Module, parts: Sequence[Part], folder: Path, seed: int = 0) -> float:
    """Train a module in several parts, one after the other. Parts that are done are loaded.

    Args:
        folder (`Path`): Gets a folder of checkpoints for each part; remove it with [`remove_checkpoints`] at the end.

    Returns:
        `float`: Seconds of training, of all parts and calls.
    """
    seconds = 0.0
    for number, part in enumerate(parts, start=1):
        result = folder / f"part-{number}.safetensors"
        if result.exists():
            with safe_open(result, "pt") as file:
                seconds += float(file.metadata()["seconds"])
            load_model(module, result)
            continue
        for frozen in part.frozen:
            frozen.requires_grad_(False)
        title = f"{name}, part {number}" if len(parts) > 1 else name
        taken = run_training(title, module, part.schedule, part.loss_of_step, folder / str(number), seed)
        for frozen in part.frozen:
            frozen.requires_grad_(True)
        seconds += taken
        with replace_file(result) as new:
            save_model(module, str(new), metadata={"seconds": str(taken)})
    return seconds


def run_training(
    name: str, module: nn.Module, schedule: Schedule, loss_of_step: LossOfStep, folder: Path, seed: int = 0
) -> float:
    """Train all parameters of a module that require gradients, in place. It ends on the CPU, in evaluation mode.

    Returns:
        `float`: Seconds of training, of all calls.
    """
    # For heads as narrow as here, torch's fused attention is ten times slower backwards on a CPU in bfloat16.
    models = [part for part in module.modules() if isinstance(part, PreTrainedModel)] if schedule.bf16 else []
    implementations = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    set_seed(seed)
    trainer = _StepTrainer(name, module, schedule, loss_of_step, folder, seed)
    checkpoint = trainer.last_checkpoint()
    if checkpoint is not None:
        print(f"{name}: resumes from step {checkpoint.name.rpartition('-')[2]} of {schedule.steps:,}", flush=True)
    with torch.random.fork_rng():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.average is not None:
        trainer.average.copy_to(trainer.trained)
    module.to("cpu").eval()
    for model, implementation in zip(models, implementations, strict=True):
        model.set_attn_implementation(implementation)
    return trainer.clock.seconds


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a stage whose result is written."""
    shutil.rmtree(folder, ignore_errors=True)


class _StepTrainer(Trainer):
    """A Trainer whose loss is a function of the step, with a moving average of the weights."""

    def __init__(
        self, name: str, module: nn.Module, schedule: Schedule, loss_of_step: LossOfStep, folder: Path, seed: int
    ) -> None:
        self.trained = [weight for weight in module.parameters() if weight.requires_grad]
        self.clock = _Clock()
        self._schedule, self._loss_of_step, self._seed = schedule, loss_of_step, seed
        optimizer = torch.optim.AdamW(
            self.trained, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
        )
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=schedule.steps,
            per_device_train_batch_size=1,
            max_grad_norm=1.0,
            seed=seed,
            logging_steps=max(schedule.steps // _NUM_LINES, 1),
            save_strategy="no",  # the clock says when
            save_total_limit=1,
            restore_callback_states_from_checkpoint=True,
            ignore_data_skip=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
        )
        super().__init__(
            model=module,
            args=arguments,
            train_dataset=_Steps(schedule.steps),
            data_collator=lambda steps: {"step": torch.tensor(steps)},
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)),
            callbacks=[self.clock, _Progress(name)],
        )
        self.remove_callback(PrinterCallback)
        self.average = (
            EMAModel(self.trained, decay=schedule.ema, use_ema_warmup=True, power=0.75) if schedule.ema else None
        )
        if self.average is not None:
            self.add_callback(_Averaging(self.average, self.trained))

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        # A restored callback is a new object.
        self.clock = next(one for one in self.callback_handler.callbacks if isinstance(one, _Clock))
        return result

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of the current step."""
        step = self.state.global_step
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._schedule.bf16):
            return self._loss_of_step(step, generator)

    def last_checkpoint(self) -> Path | None:
        """The last checkpoint that is whole: the Trainer writes its state at the end."""
        states = Path(self.args.output_dir).glob("checkpoint-*/trainer_state.json")
        return max(
            (path.parent for path in states if _is_whole(path)),
            key=lambda path: int(path.name.rpartition("-")[2]),
            default=None,
        )

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / "model.safetensors"))
        if self.average is not None:
            torch.save(self.average.state_dict(), folder / _EMA_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_model(self.model, folder / "model.safetensors")
        if self.average is not None:
            self.average.load_state_dict(torch.load(folder / _EMA_FILE, weights_only=True))
            self.average.to(device=self.args.device)


class _Steps(Dataset):
    """The numbers of all steps; what belongs to a step is made by the loss."""

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> int:
        return step


class _Clock(TrainerCallback, ExportableState):
    """Seconds of training over all calls; asks for a checkpoint every two minutes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = self._saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self._since = self._saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now
        if now - self._saved > SECONDS_BETWEEN_CHECKPOINTS and state.global_step < state.max_steps:
            control.should_save, self._saved = True, now


class _Averaging(TrainerCallback):
    """Updates the moving average after each step."""

    def __init__(self, average: EMAModel, trained: list[nn.Parameter]) -> None:
        self._average, self._trained = average, trained

    def on_train_begin(self, args: Any, *others: Any, **kwargs: Any) -> None:
        self._average.to(device=args.device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._average.step(self._trained)


class _Progress(TrainerCallback):
    """Prints the mean loss now and then."""

    def __init__(self, name: str) -> None:
        self._name = name

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in (logs or {}):
            step = f"step {state.global_step:,} of {state.max_steps:,}"
            print(f"{self._name}: {step}, loss {float(logs['loss']):.4f}", flush=True)


def _is_whole(state: Path) -> bool:
    try:
        return math.isfinite(json.loads(state.read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError):
        return False
