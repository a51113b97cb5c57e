"""Where an answer ends, and which places in it want an image."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from modeling_gill.generation_gill import find_images

DECISIONS = ("auto", "retrieve", "generate", "both")


@dataclass
class ImageSlot:
    """A place in an answer that wants an image.

    Args:
        row (`int`): The prompt.
        image (`int`): Index into the images that the model read or wrote.
        decision (`str`): `"retrieve"`, `"generate"` or `"both"`.
        preferred (`str`): Which of both goes first.
        probabilities (`dict[str, float]`, *optional*): Of `"generate"` and `"retrieve"`.
    """

    row: int
    image: int
    decision: str
    preferred: str
    probabilities: dict[str, float] | None


class AnswerEnd(StoppingCriteria):
    """Ends each row at the first newline that is not its first token, or behind the last image asked for.

    Only saves time: what is written behind the end is cut off afterwards in any case.
    """

    def __init__(
        self, image_output_token_ids: list[int], prompt_length: int, max_images: int, newline_token_id: int | None
    ):
        self.image_output_token_ids = image_output_token_ids
        self.prompt_length = prompt_length
        self.max_images = max_images
        self.newline_token_id = newline_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Args and return: ids of shape `(rows, tokens)`, booleans of shape `(rows,)`."""
        written = input_ids[:, self.prompt_length :]
        rows, _ = find_images(written, self.image_output_token_ids)
        done = torch.bincount(rows, minlength=written.shape[0]) >= self.max_images
        if self.newline_token_id is not None and written.shape[1] > 1:
            done |= written[:, -1] == self.newline_token_id
        return done


def decide(
    decision: str, decision_logits: torch.Tensor | None, can_retrieve: bool, can_generate: bool, images: int
) -> list[tuple[str, str, dict[str, float] | None]]:
    """What to do for each of `images`, which of both comes first, and the model's probabilities.

    With no retrieval set all is generated, with no generator all is retrieved. A model without a decision head
    generates where it is free to choose.

    Args:
        decision (`str`): One of [`DECISIONS`].
        decision_logits (`torch.Tensor` of shape `(images, 2)`, *optional*): Generate, retrieve.
    """
    decided: list[tuple[str, str, dict[str, float] | None]] = []
    for number in range(images):
        probabilities, preferred = None, "generate"
        if decision_logits is not None:
            generate, retrieve = decision_logits[number].float().softmax(-1).tolist()
            probabilities = {"generate": generate, "retrieve": retrieve}
            preferred = "retrieve" if retrieve > generate else "generate"
        if not (can_retrieve and can_generate):
            preferred = "retrieve" if can_retrieve else "generate"
        if decision in ("retrieve", "generate"):
            preferred = decision
        decided.append((preferred if decision == "auto" else decision, preferred, probabilities))
    return decided


__all__ = ["DECISIONS", "AnswerEnd", "ImageSlot", "decide"]
