"""Answers of different lengths beside each other, and the key-value cache of what was read of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from .generation_cache_gill import take_columns
from .generation_prompt_gill import GenerationPrompt


@dataclass(eq=False)
class AnswerRow:
    """
    An answer as it grows.

    Attributes:
        number (`int`): Its row among all answers.
        prompt (`int`): Index of its prompt.
        num_left (`int`): Tokens that may still be chosen.
        ids (`list[int]`): Its tokens, without the prompt.
        forced (`list[bool]`): Which of them were not chosen.
        features (`list[torch.Tensor]`): Images that it has read back.
        images (`list[tuple[int, torch.Tensor]]`): Index in `ids` of each `[IMG0]`, and states at the `[IMG]` tokens.
        scores, logits (`list[torch.Tensor]`): At each token that was chosen, where asked for.
        place, shift, num_cached (`int`): Its row in the cache, columns before its prompt there, and how many of its
            tokens are there, with the prompt and its padding.
    """

    number: int
    prompt: int
    num_left: int
    ids: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    features: list[torch.Tensor] = field(default_factory=list)
    images: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    place: int = 0
    shift: int = 0
    num_cached: int = 0

    def add(self, ids: Sequence[int], forced: bool) -> None:
        self.ids += ids
        self.forced += [forced] * len(ids)

    def copied(self) -> "AnswerRow":
        """Another answer that begins alike."""
        lists = {name: list(value) for name, value in vars(self).items() if isinstance(value, list)}
        return AnswerRow(**{**vars(self), **lists})


@dataclass
class RowLayout:
    """
    Rows beside each other, padded on the left.

    Attributes:
        inputs (`dict`): Those of `prepare_inputs_for_generation` beside the ids.
        shifts (`list[int]`): Columns before the prompt of each row.
        lacks_offset (`bool`): Whether tokens before the ids of the prompt have no columns of their own.
    """

    input_ids: torch.Tensor
    inputs: dict[str, Any]
    shifts: list[int]
    lacks_offset: bool = False

    @property
    def width(self) -> int:
        return self.input_ids.shape[1]


class RowCache:
    """
    The cache of the answers of a call, which is read again in other columns where the answers differ in length.

    Args:
        model ([`GillForConditionalGeneration`]).
        prompt ([`GenerationPrompt`]).
        pad_token_id (`int`): Fills the columns before a shorter row.

    Attributes:
        cache (`Cache`, *optional*): Keys and values; `None` where nothing is kept.
        num_rows (`int`): Rows that it holds.
        makes_cache (`bool`): Whether an empty one is made where none can be kept.
        prompt_width (`int`): Columns of the prompts.
    """

    def __init__(self, model: Any, prompt: GenerationPrompt, pad_token_id: int) -> None:
        self.model, self.config, self.prompt, self.pad_token_id = model, model.config, prompt, pad_token_id
        self.prompt_width = prompt.attention_mask.shape[1]
        self.cache: Any = None
        self.num_rows = 0
        self.makes_cache = False

    def columns_of(self, rows: Sequence[AnswerRow], starts: Sequence[int], length: int) -> Any:
        """What the cache knows of some rows, each from its column in `starts` on; see [`take_columns`]."""
        return take_columns(self.cache, [row.place for row in rows], starts, length, self.num_rows)

    def lay_out(self, rows: Sequence[AnswerRow]) -> RowLayout:
        """Prompts and answers of some rows beside each other."""
        longest, prompt = max(len(row.ids) for row in rows), self.prompt
        given = nn.functional.pad(prompt.input_ids, (prompt.offset, 0), value=self.pad_token_id)
        is_given = prompt.image_kwargs.get("image_token_mask", torch.zeros_like(given, dtype=torch.bool))
        ids = given.new_full((len(rows), self.prompt_width + longest), self.pad_token_id)
        mask, is_image = prompt.attention_mask.new_zeros(ids.shape), torch.zeros_like(ids, dtype=torch.bool)
        features: list[torch.Tensor] = []
        shifts = [longest - len(row.ids) for row in rows]
        like = self.model.img_embeddings.weight
        for number, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
            begin = shift + self.prompt_width
            answer = torch.tensor(row.ids, dtype=ids.dtype, device=ids.device)
            is_forced = torch.tensor(row.forced, dtype=torch.bool, device=ids.device)
            ids[number, shift:begin], ids[number, begin:] = given[row.prompt], answer
            mask[number, shift:begin], mask[number, begin:] = prompt.attention_mask[row.prompt], 1
            is_image[number, shift:begin] = is_given[row.prompt]
            is_image[number, begin:] = is_forced & (answer == self.config.image_token_id)
            own = [feature.to(like) for feature in row.features]
            if prompt.image_kwargs:
                count = int(is_given[row.prompt].sum()) // self.config.num_visual_tokens
                own = [*prompt.image_kwargs["image_features"][row.prompt, :count].to(like), *own]
            features.append(torch.stack(own) if own else like.new_zeros(0, *self.config.image_feature_shape))
        inputs = {"attention_mask": mask}
        if any(len(own) for own in features):
            padded = nn.utils.rnn.pad_sequence(features, batch_first=True)
            inputs |= {"image_features": padded, "image_token_mask": is_image}
        return RowLayout(ids, inputs, shifts)

    def align(self, rows: Sequence[AnswerRow], layout: RowLayout) -> int:
        """Let the cache hold what it knows of some rows, in the columns of a layout; return how many columns those are.

        At least one is left to be read.
        """
        tails = [self.prompt_width + len(row.ids) - row.num_cached for row in rows]
        length = layout.width - max(1, *tails)
        starts = [row.shift - shift for row, shift in zip(rows, layout.shifts, strict=True)]
        self.cache = self.columns_of(rows, starts, length)
        if self.cache is None:
            length = 0
            self.prompt.check_readable(0)
            if self.makes_cache:
                self.cache = DynamicCache(config=self.config.get_text_config(decoder=True))
        self.num_rows = len(rows)
        for place, (row, shift) in enumerate(zip(rows, layout.shifts, strict=True)):
            row.place, row.shift, row.num_cached = place, shift, max(0, length - shift)
        return length


__all__ = ["AnswerRow", "RowCache", "RowLayout"]
