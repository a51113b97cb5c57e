"""What generating with `[IMG]` tokens adds to transformers' own generation: their rules, and where they stand."""

import torch
from transformers import LogitsProcessor


class ImgTokenLogitsProcessor(LogitsProcessor):
    r"""The rules of the `[IMG]` tokens (paper, section 3.3), row by row, whatever step each row is at.

    `[IMG1]`.. come only right after their predecessor, and then for certain; no `[IMG0]` comes before
    `min_text_tokens` tokens are written; from then on its logit is scaled.

    Args:
        image_output_token_ids (`list[int]`): Ids of `[IMG0]`..`[IMG r-1]`.
        prompt_length (`int`): Columns of `input_ids` that are prompt.
        min_text_tokens (`int`, defaults to 0): Tokens to write before an image may come.
        scale (`float`, defaults to 1.0): Factor on the logit of `[IMG0]`.
        scaling (`str`, defaults to `"absolute"`): See [`GillConfig`].
    """

    def __init__(
        self,
        image_output_token_ids: list[int],
        prompt_length: int,
        min_text_tokens: int = 0,
        scale: float = 1.0,
        scaling: str = "absolute",
    ) -> None:
        self.image_output_token_ids = image_output_token_ids
        self.prompt_length = prompt_length
        self.min_text_tokens = min_text_tokens
        self.scale = scale
        self.scaling = scaling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Args and return: `input_ids` of shape `(rows, tokens)`, `scores` of shape `(rows, ids)`."""
        first, *later = self.image_output_token_ids
        scores = scores.clone()
        scores[:, later] = -torch.inf
        if input_ids.shape[1] - self.prompt_length < self.min_text_tokens:
            scores[:, first] = -torch.inf
        elif self.scaling == "signed":
            scores[:, first] *= self.scale
        elif self.scale > 1:
            scores[:, first] = scores[:, first].abs() * self.scale
        if not later or input_ids.shape[1] == 0:
            return scores
        begun = input_ids[:, -1, None] == input_ids.new_tensor(self.image_output_token_ids[:-1])
        successors = input_ids.new_tensor(later)[begun.int().argmax(1)]
        forced = torch.full_like(scores, -torch.inf).scatter(1, successors[:, None], 0.0)
        return torch.where(begun.any(1, keepdim=True), forced, scores)


def find_images(input_ids: torch.Tensor, image_output_token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Where whole runs `[IMG0]`..`[IMG r-1]` stand in `(rows, tokens)` ids.

    Returns:
        Two `torch.LongTensor` of shape `(images,)`: row and first column of each, in reading order.
    """
    if input_ids.shape[1] < len(image_output_token_ids):
        nowhere = input_ids.new_zeros(0, dtype=torch.long)
        return nowhere, nowhere
    windows = input_ids.unfold(1, len(image_output_token_ids), 1)
    rows, starts = (windows == windows.new_tensor(image_output_token_ids)).all(-1).nonzero(as_tuple=True)
    return rows, starts


def complete_images(sequences: torch.Tensor, image_output_token_ids: list[int], pad_token_id: int) -> torch.Tensor:
    """Write the `[IMG]` tokens that a row still owes when its length ran out in the middle of an image.

    The authors' code draws all `r` tokens in one step, so an image begun is an image finished.
    """
    rows: list[list[int]] = []
    for row in sequences.tolist():
        tail = next(
            (n for n in range(len(image_output_token_ids) - 1, 0, -1) if row[-n:] == image_output_token_ids[:n]), None
        )
        rows.append(row + image_output_token_ids[tail:] if tail else row)
    longest = max(len(row) for row in rows)
    if longest == sequences.shape[1]:
        return sequences
    return sequences.new_tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])


__all__ = ["ImgTokenLogitsProcessor", "complete_images", "find_images"]
