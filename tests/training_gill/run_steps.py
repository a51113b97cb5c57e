"""Trains a few steps in a process of its own, for tests that need several processes, or to kill one.

    python -m tests.training_gill.run_steps RECIPE.yaml RESULT.pt [--option value ...]

Environment: `FLOAT64`, if set: in double precision, in which no order of sums matters. `KILL_AT_STEP`, the step after
whose optimizer this process kills itself; `KILL_WHILE_SAVING`, the step in the middle of whose checkpoint it does.
`SHARED_WEIGHTS`, if set: accelerate takes the processes for ones with accelerators, without which it refuses FSDP.
`DRAWS_OF_IMAGES`, if set: the random numbers of the denoising loss depend on each image alone, so that they are the
same for any number of processes.
Writes the gradients of the first step and the final weights.
"""

import os
import signal
import sys
from typing import Any

import accelerate.state
import torch
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from training_gill import training
from training_gill.denoising_loss import DenoisingDraw, DenoisingLoss
from training_gill.recipe import parse_overrides
from training_gill.trainer import GillTrainer

GRADIENTS: dict[str, torch.Tensor] = {}


def whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def plain(name: str) -> str:
    """The name of a weight without those of what recomputes activations around it."""
    return name.replace("_checkpoint_wrapped_module.", "")


class Witness(TrainerCallback):
    """Keeps the gradients of the first step, and ends the process when it is told to."""

    def __init__(self, trainer: GillTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not GRADIENTS:
            found = {plain(n): w.grad for n, w in self.trainer.gill.named_parameters() if w.grad is not None}
            GRADIENTS.update({name: whole(gradient) for name, gradient in found.items()})

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


def pretend_accelerators() -> None:
    begin = accelerate.state.PartialState.__init__

    def pretending(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    accelerate.state.PartialState.__init__ = pretending


def draw_by_images() -> None:
    compute = DenoisingLoss.__call__

    def drawn(self: Any, conditioning: Any, images: torch.Tensor, draw: Any = None, *others: Any) -> torch.Tensor:
        shape = self.denoiser.encode(images).shape[1:]
        draws = []
        for image in images.double():
            random = torch.Generator().manual_seed(int(image.sum().mul(1e4).abs()))
            latents, noise = torch.randn(2, *shape, generator=random, dtype=torch.float64)
            draws.append((latents, noise, torch.randint(0, 1000, (), generator=random)))
        given = DenoisingDraw(*(torch.stack(values) for values in zip(*draws, strict=True)))
        return compute(self, conditioning, images, given, *others)

    DenoisingLoss.__call__ = drawn  # type: ignore[method-assign]


def main() -> None:
    torch.set_num_threads(1)
    recipe_path, result, *options = sys.argv[1:]
    if "SHARED_WEIGHTS" in os.environ:
        pretend_accelerators()
    if "DRAWS_OF_IMAGES" in os.environ:
        draw_by_images()
    training.GillTrainer = WatchedTrainer  # type: ignore[misc]
    trained: list[Any] = []
    build_model = training.build_model

    def build_and_keep(*args: Any, **kwargs: Any) -> Any:
        gill, processor = build_model(*args, **kwargs)
        trained.append((gill.double() if "FLOAT64" in os.environ else gill, processor))
        return trained[-1]

    training.build_model = build_and_keep
    training.train(recipe_path, **parse_overrides(options)[1])
    weights = {plain(n): whole(w) for n, w in trained[0][0].named_parameters() if w.requires_grad}
    if os.environ.get("RANK", "0") == "0":
        torch.save({"gradients": GRADIENTS, "weights": weights}, result)


if __name__ == "__main__":
    main()
