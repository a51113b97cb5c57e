"""A request to answer a dialogue, how it is to be answered, and what is reported while it runs."""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .limits import ChatLimits, RequestRefused

if TYPE_CHECKING:
    from pipeline_gill import GillImage


@dataclass(frozen=True)
class AnswerSettings:
    """How to answer.

    Args:
        decision (`str`): `"auto"`, `"retrieve"` or `"generate"`.
        show_other (`bool`): Where the model decides, also make the image that it decided against.
        force_image (`bool`): Begin the answer with an image.
        max_images (`int`), num_images_per_prompt (`int`), image_token_scale (`float`), max_new_tokens (`int`,
        *optional*), num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*): As of
        [`GillPipeline.__call__`].
    """

    decision: str = "auto"
    show_other: bool = True
    force_image: bool = False
    max_images: int = 1
    num_images_per_prompt: int = 1
    image_token_scale: float = 1.0
    max_new_tokens: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None

    def check(self, limits: ChatLimits) -> None:
        """
        Raises:
            RequestRefused: a setting beyond the limits.
        """
        for name, value, most in (
            ("decision", self.decision, ("auto", "retrieve", "generate")),
            ("number of images", self.max_images, limits.max_answer_images),
            ("number of candidates", self.num_images_per_prompt, limits.max_candidates),
            ("number of new tokens", self.max_new_tokens, limits.max_new_tokens),
            ("number of steps", self.num_inference_steps, limits.max_steps),
        ):
            if isinstance(most, tuple):
                if value not in most:
                    raise RequestRefused(f"The {name} is {value!r}; expected one of {', '.join(most)}.")
            elif value is not None and (not isinstance(value, int) or not 1 <= value <= most):
                raise RequestRefused(f"The {name} is {value!r}; expected 1 to {most}.")
        for name, number in (("image token scale", self.image_token_scale), ("guidance", self.guidance_scale)):
            if number is not None and not 0 <= number <= 100:
                raise RequestRefused(f"The {name} is {number!r}; expected 0 to 100.")

    def for_pipeline(self, can_choose: bool) -> dict[str, Any]:
        """Arguments of the pipeline.

        Args:
            can_choose (`bool`): Whether the pipeline can both retrieve and generate.
        """
        arguments = {
            name: getattr(self, name)
            for name in ("force_image", "max_images", "num_images_per_prompt", "image_token_scale")
        }
        both = self.decision == "auto" and self.show_other and can_choose
        arguments["decision"] = "both" if both else self.decision
        for name in ("max_new_tokens", "num_inference_steps", "guidance_scale"):
            if getattr(self, name) is not None:
                arguments[name] = getattr(self, name)
        return arguments


@dataclass(frozen=True)
class Waiting:
    """The request waits: for the model to be loaded, or for `ahead` other requests."""

    loading: bool
    ahead: int


@dataclass(frozen=True)
class PartialAnswer:
    """What is there of the answer: texts, and `None` for each image to come; steps of the image generator."""

    pieces: tuple[str | None, ...]
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class AnswerImage:
    """An image of an answer, and the one that the model decided against, where it was asked for."""

    chosen: "GillImage"
    other: "GillImage | None" = None


@dataclass(frozen=True)
class Answer:
    """The whole answer."""

    pieces: tuple[str | AnswerImage, ...]
    seed: int


@dataclass(frozen=True)
class Failure:
    """There is no answer. The message is for the person who asked."""

    message: str


Event = Waiting | PartialAnswer | Answer | Failure


@dataclass(eq=False)
class Request:
    """A dialogue to answer.

    Args:
        messages (`list[dict]`): Chat messages whose images are PIL images.
        settings ([`AnswerSettings`]): How.
        report (`Callable[[Event], None]`): Called from another thread; the last event is an answer or a failure.
        visitor (`str`): Whose request it is.
        max_seconds (`float`): After which it is given up.
        seed (`int`, *optional*): Of the image generator's random numbers; a new one by default.
    """

    messages: list[dict[str, Any]]
    settings: AnswerSettings
    report: Callable[[Event], None]
    visitor: str = ""
    max_seconds: float = 180.0
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))
    started: float = field(default_factory=time.monotonic)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Give the request up. May be called at any time, from any thread."""
        self._stopped.set()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the answer any longer, or it takes too long."""
        return self._stopped.is_set() or self.is_late

    @property
    def is_late(self) -> bool:
        return time.monotonic() - self.started > self.max_seconds


def group_pieces(pieces: "list[str | GillImage]", asked_for_both: bool) -> tuple[str | AnswerImage, ...]:
    """The pieces of an answer; with `asked_for_both`, the two images of each place as one."""
    grouped: list[str | AnswerImage] = []
    images = 0
    for piece in pieces:
        if isinstance(piece, str):
            grouped.append(piece)
            continue
        last = grouped[-1] if grouped else None
        if asked_for_both and images % 2 and isinstance(last, AnswerImage):
            grouped[-1] = replace(last, other=piece)
        else:
            grouped.append(AnswerImage(piece))
        images += 1
    return tuple(grouped)


__all__ = [
    "Answer",
    "AnswerImage",
    "AnswerSettings",
    "Event",
    "Failure",
    "PartialAnswer",
    "Request",
    "Waiting",
    "group_pieces",
]
