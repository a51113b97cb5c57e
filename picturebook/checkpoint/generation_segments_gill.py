"""Segments of an answer: what transformers writes between two images, and how its rows stand among all of a call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList
from transformers.generation.stopping_criteria import MaxLengthCriteria
from transformers.generation.streamers import BaseStreamer


@dataclass
class SegmentRows:
    """
    Which rows of a call a segment has. Processors and criteria see each row as in a segment of its own: what precedes
    it begins at the same column as the prompts did, whatever the lengths of the other rows.

    Attributes:
        numbers (`list[int]`): Number of each row among those of the call.
        total (`int`): Rows of the call.
        shifts (`list[int]`): Columns before the prompt of each row.
        pad_token_id (`int`): Fills the rows that are not in the segment.
    """

    numbers: list[int]
    total: int
    shifts: list[int]
    pad_token_id: int

    @property
    def are_those_of_the_call(self) -> bool:
        """Whether the segment has all rows, in the columns where they stand in the call."""
        return self.numbers == list(range(self.total)) and not any(self.shifts)

    def apply(self, function: Callable[..., torch.Tensor], input_ids: torch.Tensor, values: Any) -> torch.Tensor:
        """
        Call `function(input_ids, values)` with all rows of the call, once for each length of a row.

        Args:
            input_ids (`torch.LongTensor` of shape `(num_rows * copies, sequence_length)`): Of the segment; beams are
                copies of a row that follow each other.
            values: A tensor of as many rows, or anything else, which is handed on.

        Returns:
            `torch.Tensor` of shape `(num_rows * copies, ...)`.
        """
        if self.are_those_of_the_call:
            return function(input_ids, values)
        device, copies = input_ids.device, len(input_ids) // len(self.numbers)
        numbers = torch.tensor(self.numbers, device=device)
        places = (numbers[:, None] * copies + torch.arange(copies, device=device)).flatten()
        shifts = torch.tensor(self.shifts, device=device).repeat_interleave(copies)
        if isinstance(values, torch.Tensor):
            values = values.new_zeros(self.total * copies, *values.shape[1:]).index_copy(0, places, values)
        result: torch.Tensor | None = None
        for shift in sorted(set(self.shifts)):
            ids = input_ids.new_full((self.total * copies, input_ids.shape[1] - shift), self.pad_token_id)
            found = function(ids.index_copy(0, places, input_ids[:, shift:]), values)[places]
            is_own = (shifts == shift).view(-1, *[1] * (found.dim() - 1))
            result = found if result is None else torch.where(is_own, found, result)
        assert result is not None
        return result


class SegmentProcessor(LogitsProcessor):
    """The processors of a call, for a segment."""

    def __init__(self, processors: Callable[..., torch.Tensor], rows: SegmentRows) -> None:
        self.processors, self.rows = processors, rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Args and return: as of transformers' `LogitsProcessor`."""
        return self.rows.apply(self.processors, input_ids, scores)


class SegmentEnd(StoppingCriteria):
    """
    Ends a row of a segment at the token that opens an image, after as many tokens as it has left, and where the
    criteria of the call do.

    Args:
        criteria (`StoppingCriteriaList`): Those of the call. Its limit on the length is left out for `num_left`.
        rows ([`SegmentRows`]).
        begin (`int`): Columns before the segment.
        num_left (`list[int]`): Tokens that each row may still choose.
        opening_token_id (`int`).

    Attributes:
        lengths (`torch.LongTensor` of shape `(num_rows,)`): Tokens that each row has chosen, 0 while it goes on. It is
            not kept for beams.
    """

    # transformers writes padding after a row that has ended where a criterion has ids of an end.
    eos_token_id: torch.Tensor

    def __init__(
        self,
        criteria: Sequence[StoppingCriteria],
        rows: SegmentRows,
        begin: int,
        num_left: list[int],
        opening_token_id: int,
        device: torch.device,
    ) -> None:
        self.criteria = StoppingCriteriaList([one for one in criteria if not isinstance(one, MaxLengthCriteria)])
        self.rows, self.begin, self.opening_token_id = rows, begin, opening_token_id
        self.num_left = torch.tensor(num_left, device=device)
        self.lengths = torch.zeros_like(self.num_left)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Args and return: as of transformers' `StoppingCriteria`."""
        length = input_ids.shape[1] - self.begin
        # An assistant writes several tokens at once.
        is_opening = input_ids[:, self.begin :] == self.opening_token_id
        opened = is_opening.any(1)
        num_left = self.num_left.repeat_interleave(len(input_ids) // len(self.num_left))
        done = opened | (num_left <= length) | self.is_done(input_ids, scores)
        if len(done) == len(self.lengths):
            found = torch.where(opened, is_opening.int().argmax(1) + 1, length)
            self.lengths = torch.where((self.lengths == 0) & done, found, self.lengths)
        return done

    def is_done(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        """Where the criteria of the call end a row; the arguments as in `__call__`."""
        if not self.criteria:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return self.rows.apply(self.criteria, input_ids, scores)


class SegmentStreamer(BaseStreamer):
    """Hands the tokens of a segment to the streamer of the call: one for each row of the call, padding where a row has
    none."""

    def __init__(self, streamer: BaseStreamer, rows: SegmentRows) -> None:
        self.streamer, self.rows = streamer, rows

    def put(self, value: torch.Tensor) -> None:
        """
        Args:
            value (`torch.LongTensor` of shape `(num_rows,)`): The next token of each row.
        """
        if self.rows.numbers != list(range(self.rows.total)):
            tokens = value.new_full((self.rows.total,), self.rows.pad_token_id)
            value = tokens.index_copy(0, torch.tensor(self.rows.numbers), value)
        self.streamer.put(value)

    def put_columns(self, tokens: Sequence[Sequence[int]]) -> None:
        """Hand on tokens that nobody chose; the lists of the rows may differ in length."""
        for column in range(max(map(len, tokens), default=0)):
            self.put(torch.tensor([row[column] if column < len(row) else self.rows.pad_token_id for row in tokens]))

    def end(self) -> None:
        """The answers go on after the segment."""


__all__ = ["SegmentEnd", "SegmentProcessor", "SegmentRows", "SegmentStreamer"]
