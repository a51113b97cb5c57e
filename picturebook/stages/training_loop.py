"""Training of one module with transformers' Trainer, resumed from its last checkpoint when it was stopped.

Batches and noise depend on the number of the step alone, so that a run which was stopped ends like one that was not.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_model
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainingArguments, set_seed

from modeling_gill.atomic_write_gill import replace_file

# Lines that each part prints; every second one comes with a checkpoint.
_NUM_LINES = 20


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

    The module ends on the CPU, in evaluation mode.

    Args:
        folder (`Path`): Gets the checkpoints and the result of each part; remove it when the module is saved.

    Returns:
        `float`: Seconds of training, of all parts and calls.

    Raises:
        ValueError: a checkpoint in the folder has other weights than the module.
    """
    seconds = 0.0
    for number, part in enumerate(parts, start=1):
        result = folder / f"part-{number}.safetensors"
        if result.exists():
            load_model(module, result)
            with safe_open(result, "pt") as file:
                seconds += float(file.metadata()["seconds"])
            continue
        for frozen in part.frozen:
            frozen.requires_grad_(False)
        title = f"{name}, part {number}" if len(parts) > 1 else name
        taken = _train_part(title, module, part, folder / str(number), seed)
        for frozen in part.frozen:
            frozen.requires_grad_(True)
        seconds += taken
        with replace_file(result) as new:
            save_model(module, str(new), metadata={"seconds": str(taken)})
    module.eval()
    return seconds


def _train_part(name: str, module: nn.Module, part: Part, folder: Path, seed: int) -> float:
    # For heads as narrow as here, torch's fused attention is ten times slower backwards on a CPU in bfloat16.
    models = [model for model in module.modules() if isinstance(model, PreTrainedModel)] if part.schedule.bf16 else []
    implementations = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    set_seed(seed)
    trainer = _StepTrainer(name, module, part, folder, seed)
    checkpoint = _last_whole_checkpoint(folder)
    if checkpoint is not None:
        step = checkpoint.name.rpartition("-")[2]
        print(f"{name}: resumes from step {step} of {part.schedule.steps:,}", flush=True)
    with torch.random.fork_rng():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.weights.average is not None:
        trainer.weights.average.copy_to(trainer.weights.trained)
    module.to("cpu")
    for model, implementation in zip(models, implementations, strict=True):
        model.set_attn_implementation(implementation)
    return float(trainer.state.log_history[-1]["seconds"])


class _TrainedWeights(nn.Module):
    """The trained weights of a module and their moving average, without the module around them.

    The Trainer visits all submodules of its model several times a step, and of these there are none.
    """

    def __init__(self, module: nn.Module, ema: float) -> None:
        super().__init__()
        self.trained = nn.ParameterList(weight for weight in module.parameters() if weight.requires_grad)
        self.average: Any = EMAModel(list(self.trained), decay=ema, use_ema_warmup=True, power=0.75) if ema else None
        for number, weight in enumerate(self.average.shadow_params if self.average is not None else ()):
            self.register_buffer(f"average_{number}", weight)


class _StepTrainer(Trainer):
    """A Trainer whose loss is a function of the step, with a moving average of the weights."""

    def __init__(self, name: str, module: nn.Module, part: Part, folder: Path, seed: int) -> None:
        schedule = part.schedule
        logging_steps = max(schedule.steps // _NUM_LINES, 1)
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=schedule.steps,
            per_device_train_batch_size=1,
            max_grad_norm=1.0,
            seed=seed,
            logging_steps=logging_steps,
            save_steps=2 * logging_steps,
            save_total_limit=1,
            ignore_data_skip=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            report_to="none",
        )
        self.weights = _TrainedWeights(module.to(arguments.device).train(), schedule.ema)
        optimizer = torch.optim.AdamW(
            self.weights.trained, lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
        )
        super().__init__(
            model=self.weights,
            args=arguments,
            train_dataset=range(schedule.steps),  # what belongs to a step is made by the loss
            data_collator=lambda steps: {"step": torch.tensor(steps)},
            optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)),
        )
        self.remove_callback(PrinterCallback)
        if self.weights.average is not None:
            optimizer.register_step_post_hook(self._update_average)
        self._name, self._part, self._seed, self._since = name, part, seed, time.monotonic()

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of the current step."""
        step = self.state.global_step
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        with torch.autocast(self.args.device.type, torch.bfloat16, enabled=self._part.schedule.bf16):
            return self._part.loss_of_step(step, generator)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Print the mean loss and record the seconds of training over all calls, from which a run resumes counting."""
        now, history = time.monotonic(), self.state.log_history
        seconds = (history[-1]["seconds"] if history else 0.0) + now - self._since
        self._since = now
        if "loss" in logs:
            step = f"step {self.state.global_step:,} of {self.state.max_steps:,}"
            print(f"{self._name}: {step}, loss {float(logs['loss']):.4f}", flush=True)
        super().log({**logs, "seconds": seconds}, *args, **kwargs)

    def _update_average(self, *args: Any) -> None:
        self.weights.average.optimization_step = self.state.global_step
        self.weights.average.step(list(self.weights.trained))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The Trainer's own passes over weights that are missing.
        try:
            self.weights.load_state_dict(load_file(Path(resume_from_checkpoint) / "model.safetensors"))
        except RuntimeError as error:
            raise ValueError(
                f"The checkpoint {resume_from_checkpoint} is not of this model; remove it or use another folder."
            ) from error


def _last_whole_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that is whole: the Trainer writes its state at the end."""
    whole = {}
    for path in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            whole[int(json.loads(path.read_text(encoding="utf-8"))["global_step"])] = path.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return whole[max(whole)] if whole else None
