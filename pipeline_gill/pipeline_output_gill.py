"""What a GILL pipeline answers."""

from dataclasses import dataclass, field
from typing import Any

from diffusers.utils import BaseOutput


@dataclass
class GillImage:
    r"""
    One image of an answer.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            The image as `output_type` asks; `None` where `decision="retrieve"` and nothing could be opened.
        source (`str`): `"retrieved"` or `"generated"`.
        decision (`str`): `"retrieve"` or `"generate"`, what the model or the caller decided.
        decision_probabilities (`dict[str, float]`, *optional*):
            The model's probabilities of `"generate"` and `"retrieve"`; `None` where it has no decision head.
        score (`float`, *optional*):
            Retrieval score of the image for the text, `exp(logit_scale) * cosine`; `None` for latents.
        origin (`str`, *optional*): Path or URL that a retrieved image came from.
        caption (`str`, *optional*): Its caption, where the retrieval set has one.
        index (`int`, *optional*): Its row of the retrieval set.
        candidates (`list[GillImage]`): All that were made or found for this place, best first, this one included.
    """

    image: Any
    source: str
    decision: str
    decision_probabilities: dict[str, float] | None = None
    score: float | None = None
    origin: str | None = None
    caption: str | None = None
    index: int | None = None
    candidates: list["GillImage"] = field(default_factory=list, repr=False)


@dataclass
class GillPipelineOutput(BaseOutput):
    r"""
    Answers to a batch of prompts.

    Args:
        sequences (`list[list[str | GillImage]]`): For each prompt, the texts and images of its answer in order.
    """

    sequences: list[list[str | GillImage]]

    @property
    def image_pieces(self) -> list[list[GillImage]]:
        """For each prompt, its image pieces."""
        return [[piece for piece in answer if isinstance(piece, GillImage)] for answer in self.sequences]

    @property
    def images(self) -> list[list[Any]]:
        """For each prompt, its images alone."""
        return [[piece.image for piece in pieces] for pieces in self.image_pieces]

    @property
    def texts(self) -> list[str]:
        """For each prompt, its text alone."""
        return ["".join(piece for piece in answer if isinstance(piece, str)) for answer in self.sequences]

    @property
    def decisions(self) -> list[list[str]]:
        """For each prompt, what was decided for each of its images."""
        return [[piece.decision for piece in pieces] for pieces in self.image_pieces]


__all__ = ["GillImage", "GillPipelineOutput"]
