"""States of a frozen language model at `[IMG]` tokens whose rows stay fixed, computed once for each caption."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .caches import states_info
from .collator import CaptionedImageCollator
from .model_building import build_model
from .padded_rows import length_groups
from .recipe import Recipe, RecipeError


class LanguageStateEncoder:
    """
    The language model of a recipe, with its `[IMG]` rows.

    Args:
        recipe (`Recipe`): With `train_img_embeddings: false`.
        device (`str`): To run on.

    Attributes:
        shape (`tuple[int, ...]`): Of the states of a caption: `(num_image_output_tokens, embedding_dim)`, with
            `img_state_layers` `(num_image_output_tokens, num_layers, embedding_dim)`.

    Raises:
        RecipeError: a recipe whose states change while it trains, or whose models cannot be loaded.
    """

    def __init__(self, recipe: Recipe, device: str) -> None:
        if recipe.model.train_img_embeddings or recipe.model.lora is not None:
            name = "train_img_embeddings" if recipe.model.train_img_embeddings else "lora"
            value = getattr(recipe.model, name)
            raise RecipeError(
                f"`{name}` is {value!r}: the states of the language model change while this recipe trains, and cannot "
                "be computed before; expected `train_img_embeddings: false` and no `lora`."
            )
        if recipe.data.context or recipe.data.request:
            raise RecipeError(
                f"`context` is {recipe.data.context} and `request` {recipe.data.request!r}: what precedes a caption "
                "changes while this recipe trains; expected neither, as states are of a caption alone."
            )
        # States do not depend on the mapper, so that no image generator needs to be there.
        model = recipe.model if recipe.model.start_from else replace(recipe.model, mapper_type="none")
        self.gill, processor = build_model(model, recipe.backbone_dtype(), recipe.training.seed)
        self.gill.eval().to(device)
        self.collator = CaptionedImageCollator(processor, max_length=recipe.data.max_length)
        self.shape = tuple(self.info()["shape"])

    def info(self) -> dict[str, Any]:
        """What a cache of these states says about itself."""
        return states_info(self.gill, self.collator.max_length)

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """For each caption an array of [`LanguageStateEncoder.shape`], float32, under one name."""
        rows = [self.collator.caption_ids(caption) for caption in captions]
        found: dict[int, np.ndarray] = {}
        count, pad = self.gill.config.num_image_output_tokens, self.gill.config.image_output_token_ids[0]
        for group in length_groups([len(row) for row in rows]):
            longest = max(len(rows[number]) for number in group)
            ids = torch.tensor([rows[number] + [pad] * (longest - len(rows[number])) for number in group])
            # Padding on the right is never looked at from the left: no mask is needed.
            embeds = self.gill.embed_tokens(ids.to(self.gill.device))
            _, states = self.gill.read_img_states(embeds, use_cache=False)
            for number, own in zip(group, states.float().cpu(), strict=True):
                end = len(rows[number])
                found[number] = own[end - count : end].numpy()
        return [{"states": found[number]} for number in range(len(rows))]


__all__ = ["LanguageStateEncoder"]
