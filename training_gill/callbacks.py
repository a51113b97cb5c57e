"""Small parts of the Trainer: the norm of the `[IMG]` rows, the order of the examples, progress bars."""

from collections.abc import Iterator, Sized
from typing import Any

import torch
import transformers
from torch.utils.data import Sampler
from transformers import ProgressCallback, TrainerCallback

from modeling_gill import GillForConditionalGeneration


@torch.no_grad()
def mean_frozen_norm(model: GillForConditionalGeneration, used_ids: list[int]) -> float:
    """Mean norm of the embeddings of the language model's own tokens.

    Args:
        model ([`GillForConditionalGeneration`]): With its language model.
        used_ids (`list[int]`): Ids of the tokenizer; those of images, and those without a row, do not count.
    """
    table = model.language_model.get_input_embeddings().weight
    image_ids = {model.config.image_token_id, *model.config.image_output_token_ids}
    rows = [i for i in used_ids if i < table.shape[0] and i not in image_ids]
    return float(table[torch.tensor(rows, device=table.device)].float().norm(dim=1).double().mean())


class ImgRowScale(TrainerCallback):
    """
    Brings every `[IMG]` row to the same norm after each step of the optimizer (the authors' `main.py`), unless the rows
    are not trained.

    Args:
        model ([`GillForConditionalGeneration`]): The one that is trained.
        norm (`float`): The norm, [`mean_frozen_norm`].
    """

    def __init__(self, model: GillForConditionalGeneration, norm: float) -> None:
        self.model = model
        self.norm = norm

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = self.model.img_embeddings.weight
        if weight.requires_grad:
            weight.mul_(self.norm / weight.norm(dim=1, keepdim=True))


class SeededOrder(Sampler):
    """
    A permutation of all examples that depends on `seed` and `epoch` alone.

    Args:
        data (`Sized`): What is permuted.
        seed (`int`): Of the run.
    """

    def __init__(self, data: Sized, seed: int) -> None:
        self.size, self.seed, self.epoch = len(data), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(torch.randperm(self.size, generator=generator).tolist())

    def __len__(self) -> int:
        return self.size


class SetEpoch(TrainerCallback):
    """Sets the epoch of a [`SeededOrder`]: accelerate does not forward `set_epoch` after a resume."""

    def __init__(self, order: SeededOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.order.set_epoch(int((state.epoch or 0) + 1e-6))


class SingleProgressBar(ProgressCallback):
    """The Trainer's progress bar; evaluations during the training have none of their own."""

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.training_bar is None:
            super().on_prediction_step(args, state, control, **kwargs)


def hide_loading_bars() -> None:
    """Hide the bars of loading and saving weights, which would interrupt those of the work itself."""
    import diffusers

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()


__all__ = ["ImgRowScale", "SeededOrder", "SetEpoch", "SingleProgressBar", "hide_loading_bars", "mean_frozen_norm"]
