"""Where an answer ends, and the images in it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria

from .pipeline_output_gill import GillImage, as_output_type

DECISIONS = ("auto", "retrieve", "generate", "both", "score")


@dataclass
class ImageSlot:
    """A place in an answer that is filled with an image.

    Args:
        prompt (`int`): Index of the prompt.
        answer (`int`): Index of the answer; answers of one prompt follow each other.
        image (`int`): Index into the images that the model wrote, the first dimension of its `retrieval_embeds`.
        decision (`str`): `"retrieve"`, `"generate"` or `"both"`.
        preferred (`str`): Which of both goes first.
        probabilities (`dict[str, float]`, *optional*): Of `"generate"` and `"retrieve"`.
        retrieved, generated ([`GillImage`], *optional*): The best candidate, once there is one.
        by_score (`bool`): Whether the one with the higher retrieval score is taken, alone.
        reference ([`GillImage`], *optional*): The retrieved image that the generated one is drawn after.
        number (`int`): Which image of its answer it is, counted from 0.
    """

    prompt: int
    answer: int
    image: int
    decision: str = "generate"
    preferred: str = "generate"
    probabilities: dict[str, float] | None = None
    retrieved: GillImage | None = None
    generated: GillImage | None = None
    by_score: bool = False
    reference: GillImage | None = None
    number: int = 0

    def decide(
        self, decision: str, decision_logits: torch.Tensor | None, can_retrieve: bool, can_generate: bool
    ) -> None:
        """Set `decision`, `preferred` and `probabilities`.

        Without a retrieval set everything is generated, without a generator everything is retrieved. A model without
        a decision head generates where it may choose.

        Args:
            decision (`str`): One of [`DECISIONS`].
            decision_logits (`torch.Tensor` of shape `(2,)`, *optional*): Generate, retrieve.
        """
        if decision_logits is not None:
            generate, retrieve = decision_logits.float().softmax(-1).tolist()
            self.probabilities = {"generate": generate, "retrieve": retrieve}
            self.preferred = "retrieve" if retrieve > generate else "generate"
        if not (can_retrieve and can_generate):
            self.preferred = "generate" if can_generate else "retrieve"
        if decision in ("retrieve", "generate"):
            self.preferred = decision
        self.decision = self.preferred if decision == "auto" else decision
        if decision == "score":
            self.decision, self.by_score, self.probabilities = "both", True, None

    def finished(self, output_type: str) -> list[GillImage]:
        """The images that fill the slot, the preferred one first, with its decision and in `output_type`."""
        if self.by_score:
            scores = {
                piece.decision: -math.inf if piece.score is None else piece.score
                for piece in (self.generated, self.retrieved)
                if piece is not None
            }
            self.preferred = max(scores, key=lambda name: scores[name])
        pieces = [self.retrieved, self.generated] if self.preferred == "retrieve" else [self.generated, self.retrieved]
        filled = [piece for piece in pieces if piece is not None][: 1 if self.by_score else None]
        for piece in filled:
            for image in piece.candidates or [piece]:
                image.decision, image.decision_probabilities = self.preferred, self.probabilities
                if image.source == "generated":
                    image.reference = self.reference
                if image.source == "retrieved" and image.image is not None:
                    image.image = as_output_type(image.image, output_type)
        return filled


class AnswerEnd(StoppingCriteria):
    """Ends each row at the first newline that is not its first token, or after the last image asked for.

    This saves time only: the answer is cut there afterwards in any case.
    """

    def __init__(
        self, image_output_token_ids: list[int], prompt_length: int, max_images: int, newline_token_id: int | None
    ):
        self.image_output_token_ids = image_output_token_ids
        self.prompt_length = prompt_length
        self.max_images = max_images
        self.newline_token_id = newline_token_id

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Args and return: ids of shape `(batch_size, sequence_length)`, booleans of shape `(batch_size,)`."""
        answer = input_ids[:, self.prompt_length :]
        done = torch.zeros(answer.shape[0], dtype=torch.bool, device=answer.device)
        if answer.shape[1] >= len(self.image_output_token_ids):
            windows = answer.unfold(1, len(self.image_output_token_ids), 1)
            images = (windows == answer.new_tensor(self.image_output_token_ids)).all(-1)
            done |= images.sum(1) >= self.max_images
        if self.newline_token_id is not None:
            done |= (answer[:, 1:] == self.newline_token_id).any(1)
        return done


def best_of(images: list[GillImage]) -> GillImage | None:
    """The candidate with the highest score, with all of them as its `candidates`; `None` of none."""
    if not images:
        return None
    ranked = sorted(images, key=lambda image: -(image.score or 0.0))
    ranked[0].candidates = ranked
    return ranked[0]


__all__ = ["DECISIONS", "AnswerEnd", "ImageSlot", "best_of"]
