"""What a GILL pipeline returns."""

import base64
import html
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from PIL import Image


@dataclass
class GillImage:
    r"""
    One image of an answer. It shows itself, with its source and caption, where it is the last value of a notebook cell.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            The image in the format of `output_type`; `None` where `decision="retrieve"` and no image could be opened.
        source (`str`): `"retrieved"` or `"generated"`.
        decision (`str`): `"retrieve"` or `"generate"`, what the model or the caller decided.
        decision_probabilities (`dict[str, float]`, *optional*):
            The model's probabilities of `"generate"` and `"retrieve"`; `None` for a model without a decision head.
        score (`float`, *optional*):
            Retrieval score of the image for the text, `exp(logit_scale) * cosine`; `None` for latents.
        origin (`str`, *optional*): Path or URL of a retrieved image.
        caption (`str`, *optional*): Its caption, where the retrieval set has one.
        index (`int`, *optional*): Its row in the retrieval set.
        reference (`GillImage`, *optional*): The retrieved image that a generated one was drawn after.
        candidates (`list[GillImage]`):
            All images that were retrieved or generated for this place, best first, this one included.
    """

    image: Any
    source: str
    decision: str
    decision_probabilities: dict[str, float] | None = None
    score: float | None = None
    origin: str | None = None
    caption: str | None = None
    index: int | None = None
    reference: "GillImage | None" = field(default=None, repr=False)
    candidates: list["GillImage"] = field(default_factory=list, repr=False)

    def _repr_png_(self) -> bytes | None:
        """The image as PNG for notebooks; `None` for no image and for latents."""
        if self.image is None or (isinstance(self.image, torch.Tensor) and self.image.shape[-3] != 3):
            return None
        buffer = io.BytesIO()
        as_pil(self.image).save(buffer, format="PNG")
        return buffer.getvalue()

    def _repr_html_(self) -> str | None:
        """The image under a line with its source, probability and caption, for notebooks; `None` as above."""
        png = self._repr_png_()
        if png is None:
            return None
        details = [self.source]
        if self.decision_probabilities is not None:
            details.append(f"P({self.decision}) = {self.decision_probabilities[self.decision]:.2f}")
        if self.score is not None:
            details.append(f"score {self.score:.2f}")
        caption = f"<br>{html.escape(self.caption)}" if self.caption else ""
        return (
            '<figure style="display: inline-block; margin: 4px">'
            f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
            f"<figcaption><small>{html.escape(', '.join(details))}{caption}</small></figcaption></figure>"
        )


@dataclass
class GillPipelineOutput(BaseOutput):
    r"""
    Answers to a batch of prompts.

    With `num_return_sequences=n` above 1, `answers`, `image_pieces`, `texts` and `decisions` hold for each prompt a
    list of its `n` answers in place of the answer.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`):
            Every image in one flat list: prompt after prompt, and for each image of an answer all its candidates, best
            first. Arrays and tensors of one shape are stacked to `(num_images, height, width, channels)` and
            `(num_images, channels, height, width)`. Images that could not be retrieved are left out.
        answers (`list[list[str | GillImage]]`): For each prompt, the texts and images of its answer in order.
    """

    images: Any
    answers: list[Any]

    @classmethod
    def from_answers(cls, answers: list[Any]) -> "GillPipelineOutput":
        """The output whose flat `images` are collected from `answers`."""
        images = [
            candidate.image
            for answer in _each_answer(answers)
            for piece in answer
            if isinstance(piece, GillImage)
            for candidate in piece.candidates or [piece]
            if candidate.image is not None
        ]
        return cls(images=_stack(images), answers=answers)

    @property
    def image_pieces(self) -> list[list[GillImage]]:
        """For each prompt, the images of its answer as [`GillImage`]."""
        return _map_answers(self.answers, lambda answer: [piece for piece in answer if isinstance(piece, GillImage)])

    @property
    def texts(self) -> list[str]:
        """For each prompt, the text of its answer."""
        return _map_answers(self.answers, lambda answer: "".join(piece for piece in answer if isinstance(piece, str)))

    @property
    def decisions(self) -> list[list[str]]:
        """For each prompt, what was decided for each image of its answer."""
        return _map_answers(
            self.answers, lambda answer: [piece.decision for piece in answer if isinstance(piece, GillImage)]
        )


def as_pil(image: Any) -> Image.Image:
    """A PIL image, an array `(height, width, 3)` or a tensor `(3, height, width)` in [0, 1] as a PIL image."""
    if isinstance(image, torch.Tensor):
        image = image.detach().float().cpu().permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray):
        image = Image.fromarray((image * 255).round().astype("uint8"))
    return image.convert("RGB")


def as_output_type(image: Image.Image, output_type: str) -> Any:
    """A PIL image in the format of diffusers' `output_type` (`"pil"`, `"np"` or `"pt"`)."""
    if output_type == "pil":
        return image
    array = np.asarray(image, dtype=np.float32) / 255
    return array if output_type == "np" else torch.from_numpy(array).permute(2, 0, 1)


def _has_several_answers(entry: list[Any]) -> bool:
    return bool(entry) and isinstance(entry[0], list)


def _each_answer(answers: list[Any]) -> Iterator[list[Any]]:
    for entry in answers:
        yield from entry if _has_several_answers(entry) else [entry]


def _map_answers(answers: list[Any], function: Any) -> list[Any]:
    return [
        [function(answer) for answer in entry] if _has_several_answers(entry) else function(entry) for entry in answers
    ]


def _stack(images: list[Any]) -> Any:
    if not images or isinstance(images[0], Image.Image) or len({tuple(image.shape) for image in images}) > 1:
        return images
    return np.stack(images) if isinstance(images[0], np.ndarray) else torch.stack(images)


__all__ = ["GillImage", "GillPipelineOutput", "as_output_type", "as_pil"]
