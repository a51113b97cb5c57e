"""The passes of a training step by hand: rows as the authors build them, and the losses by plain forward passes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.mapper_gill import MapperOutput
from training_gill.losses import conditioning_loss


def both_passes(captions: Sequence[Any], config: GillConfig, packed: bool) -> dict[str, torch.Tensor]:
    """Rows of `image, caption` and of `caption, [IMG]`, padded on the right.

    Args:
        captions: Ids of captions that end with the `[IMG]` tokens.
        packed: Put two examples into each row. The authors then predict nothing after the first `[IMG0]` of a row.
    """
    placeholders = [config.image_token_id] * config.num_visual_tokens
    reading, writing = [], []
    for caption in captions:
        ids = [int(i) for i in caption]
        reading.append(placeholders + [i for i in ids if i not in config.image_output_token_ids])
        writing.append(ids)
    if packed:
        k = config.num_visual_tokens
        reading = [a + b[:k] + b[k + 1 :] for a, b in zip(reading[::2], reading[1::2], strict=True)]
        writing = [a + b[1:] for a, b in zip(writing[::2], writing[1::2], strict=True)]
    labels = reading + [_until_first_image(row, config.image_output_token_ids[0]) for row in writing]
    rows = reading + writing
    longest = max(len(row) for row in rows)
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
    }


def plain_losses(
    model: GillForConditionalGeneration,
    batch: dict[str, torch.Tensor],
    image_features: torch.Tensor,
    target_features: torch.Tensor,
    target_conditioning: dict[str, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The four losses of a batch of both passes, without any of the training step's shortcuts.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`.
        image_features: Of every image that is read, in reading order.
        target_features, target_conditioning: Of every `[IMG]` run, in reading order.
    """
    ids = batch["input_ids"]
    output = model(input_ids=ids, attention_mask=batch["attention_mask"], image_features=image_features)
    labels = batch["labels"].masked_fill(batch["labels"] == model.config.image_token_id, -100)
    reads = ~(ids == model.config.image_output_token_ids[0]).any(1)

    def cross_entropy(rows: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(output.logits[rows, :-1].flatten(0, 1), labels[rows, 1:].flatten())

    image_embeds = model.get_image_retrieval_embeddings(image_features=target_features)
    return {
        "captioning": cross_entropy(reads),
        "language": cross_entropy(~reads),
        "contrastive": _contrastive_loss(output.retrieval_embeds, image_embeds, model.logit_scale.exp()),
        "conditioning": conditioning_loss(
            MapperOutput(output.conditioning), target_conditioning, model.config.conditioning_tensors
        ),
    }


def _contrastive_loss(text: torch.Tensor, image: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * functional.normalize(image, dim=-1) @ functional.normalize(text, dim=-1).T
    same = torch.arange(len(logits))
    return (functional.cross_entropy(logits, same) + functional.cross_entropy(logits.T, same)) / 2


def _until_first_image(row: list[int], first: int) -> list[int]:
    end = row.index(first) + 1
    return row[:end] + [-100] * (len(row) - end)
