"""The `[IMG]` rows keep the length of the language model's own rows (the authors' `main.py`)."""

from typing import Any

import torch
from transformers import TrainerCallback

from modeling_gill import GillForConditionalGeneration


@torch.no_grad()
def mean_frozen_norm(model: GillForConditionalGeneration, used_ids: list[int]) -> float:
    """Mean length of the language model's own used rows.

    Args:
        model ([`GillForConditionalGeneration`]): With its language model.
        used_ids (`list[int]`): Ids of the tokenizer; those of images, and those without a row, do not count.
    """
    table = model.language_model.get_input_embeddings().weight
    ours = {model.config.image_token_id, *model.config.image_output_token_ids}
    rows = [i for i in used_ids if i < table.shape[0] and i not in ours]
    return float(table[torch.tensor(rows, device=table.device)].float().norm(dim=1).double().mean())


class ImgRowScale(TrainerCallback):
    """
    Brings every `[IMG]` row to the same length after each step of the optimizer.

    Args:
        model ([`GillForConditionalGeneration`]): The one that is trained.
        norm (`float`): The length, [`mean_frozen_norm`].
    """

    def __init__(self, model: GillForConditionalGeneration, norm: float) -> None:
        self.model = model
        self.norm = norm

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weight = self.model.img_embeddings.weight
        weight.mul_(self.norm / weight.norm(dim=1, keepdim=True))


__all__ = ["ImgRowScale", "mean_frozen_norm"]
