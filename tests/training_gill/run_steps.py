"""Trains a few steps in a process of its own, for tests that need several processes, or to kill one.

    python -m tests.training_gill.run_steps RECIPE.yaml RESULT.pt [--option value ...]

Environment: `FLOAT64`, if set: in double precision, in which no order of sums matters. `KILL_AT_STEP`, the step after
whose optimizer this process kills itself; `KILL_WHILE_SAVING`, the step in the middle of whose checkpoint it does.
Writes the gradients of the first step and the final weights.
"""

import os
import signal
import sys
from typing import Any

import torch
from transformers import TrainerCallback

from training_gill import training
from training_gill.recipe import parse_overrides
from training_gill.trainer import GillTrainer

GRADIENTS: dict[str, torch.Tensor] = {}


class Witness(TrainerCallback):
    """Keeps the gradients of the first step, and ends the process when it is told to."""

    def __init__(self, trainer: GillTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not GRADIENTS:
            GRADIENTS.update({n: w.grad.clone() for n, w in self.trainer.gill.named_parameters() if w.grad is not None})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == int(os.environ.get("KILL_AT_STEP", -1)):
            os.kill(os.getpid(), signal.SIGKILL)


class WatchedTrainer(GillTrainer):
    """Dies between the weights and the state of the optimizer of a checkpoint."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback(Witness(self))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.state.global_step == int(os.environ.get("KILL_WHILE_SAVING", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


def main() -> None:
    torch.set_num_threads(1)
    recipe_path, result, *options = sys.argv[1:]
    training.GillTrainer = WatchedTrainer  # type: ignore[misc]
    trained: list[Any] = []
    build_model = training.build_model

    def build_and_keep(*args: Any) -> Any:
        gill, processor = build_model(*args)
        trained.append((gill.double() if "FLOAT64" in os.environ else gill, processor))
        return trained[-1]

    training.build_model = build_and_keep
    training.train(recipe_path, **parse_overrides(options)[1])
    if os.environ.get("RANK", "0") == "0":
        gill = trained[0][0]
        weights = {n: w.detach().clone() for n, w in gill.named_parameters() if w.requires_grad}
        torch.save({"gradients": GRADIENTS, "weights": weights}, result)


if __name__ == "__main__":
    main()
