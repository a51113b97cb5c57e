"""The two passes of a training step as the authors build them, by hand, for the golden losses."""

from collections.abc import Sequence
from typing import Any

import torch

from modeling_gill import GillConfig


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


def _until_first_image(row: list[int], first: int) -> list[int]:
    end = row.index(first) + 1
    return row[:end] + [-100] * (len(row) - end)
