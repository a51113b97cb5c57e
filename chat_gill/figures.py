"""How an image of an answer is shown: its source, and on a click where it comes from and what else there was.

A figure is one piece of HTML that holds its images, so a dialogue that was shown can be read again: by the model as the
history of the next answer, and by people as a file.
"""

import base64
import html
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from PIL import Image

from .answer_request import AnswerImage, PartialAnswer, Waiting

if TYPE_CHECKING:
    from pipeline_gill import GillImage

# Small images, such as drawn ones, are kept exactly.
_EXACT_SIZE = 256
_DATA_URI = re.compile(r'<img[^>]*\ssrc="data:image/(?:png|webp);base64,([A-Za-z0-9+/=]+)"')
_VERBS = {"retrieved": "retrieve", "generated": "generate"}


def figure_html(image: AnswerImage, text: str, chosen_by_model: bool, seed: int | None = None) -> str:
    """
    Args:
        image ([`AnswerImage`]): With its candidates.
        text (`str`): Of the answer, for those who do not see the image.
        chosen_by_model (`bool`): Whether the model decided between retrieving and generating.
        seed (`int`, *optional*): Of the random numbers.
    """
    shown = image.chosen
    if shown.image is None:
        return note_html("No image of the retrieval set could be opened.")
    alternatives = [item for item in shown.candidates if item is not shown]
    if image.other is not None and image.other.image is not None:
        alternatives += image.other.candidates or [image.other]
    alternative = text.strip(" .") or "no description"
    details = _details(shown, chosen_by_model, seed if shown.source == "generated" else None)
    others = "".join(_other_figure(item) for item in alternatives)
    if others:
        others = f'<p class="gill-heading">Other candidates</p><div class="gill-others">{others}</div>'
    return (
        f'<figure class="gill-figure gill-{shown.source}"><details><summary>'
        f'<img src="{data_uri(shown.image)}" alt="{shown.source} image: {html.escape(alternative)}">'
        f'<span class="gill-badge">{shown.source}</span> <span class="gill-decision">'
        f"{html.escape(_decision(shown, chosen_by_model))}</span>"
        '<span class="gill-more">details</span></summary>'
        f'<div class="gill-details">{details}{others}</div></details></figure>'
    )


def placeholder_html(answer: PartialAnswer, is_candidate: bool = False) -> str:
    """Stands where an image will be; with the progress of the image generator once it runs.

    Args:
        answer ([`PartialAnswer`]): So far.
        is_candidate (`bool`): Whether the image that is drawn may be the one that the model decides against.
    """
    if answer.steps:
        what = "Drawing a candidate" if is_candidate else "Drawing"
        label = f"{what}, step {answer.step} of {answer.steps}"
        bar = f'<progress max="{answer.steps}" value="{answer.step}" aria-label="Drawing"></progress>'
    else:
        label, bar = "Choosing an image", '<progress aria-label="Choosing an image"></progress>'
    return f'<div class="gill-placeholder" role="status"><span>{label}</span>{bar}</div>'


def waiting_html(waiting: Waiting) -> str:
    """What somebody sees who waits."""
    if waiting.loading:
        text = "The model is being loaded. Your answer comes as soon as it is there."
    elif waiting.ahead:
        text = f"Waiting for {waiting.ahead} other {'person' if waiting.ahead == 1 else 'people'}."
    else:
        text = "Thinking."
    return (
        f'<div class="gill-placeholder gill-waiting" role="status"><span>{text}</span>'
        '<progress aria-label="Waiting"></progress></div>'
    )


def note_html(text: str) -> str:
    """A remark of the page, which is no part of the dialogue."""
    return f'<p class="gill-note" role="note">{html.escape(text)}</p>'


def is_placeholder(shown: str) -> bool:
    """Whether a piece of HTML stands where something is still to come."""
    return shown.startswith('<div class="gill-placeholder')


def image_bytes_of(shown: str) -> bytes | None:
    """The file of the image that a figure shows, the first one in it; `None` for anything else."""
    found = _DATA_URI.search(shown)
    return None if found is None else base64.b64decode(found[1])


def data_uri(image: Image.Image) -> str:
    """An image as the `src` of an `<img>`: PNG up to 256 pixels a side, smaller WebP above."""
    file = io.BytesIO()
    kind = "png" if max(image.size) <= _EXACT_SIZE else "webp"
    image.convert("RGB").save(file, kind, **({} if kind == "png" else {"quality": 90}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _decision(image: "GillImage", chosen_by_model: bool) -> str:
    """How sure the model's choice was. Not how good the image is, so no word of that is near the number."""
    if not chosen_by_model:
        return "as set in the settings"
    if image.decision_probabilities is None:
        return "the only way this model has"
    other = "generating" if image.source == "retrieved" else "retrieving"
    return f"chosen over {other} with {100 * image.decision_probabilities[_VERBS[image.source]]:.0f} %"


def _details(image: "GillImage", chosen_by_model: bool, seed: int | None) -> str:
    rows = list(_facts(image))
    if seed is not None:
        rows.append(("Seed", str(seed)))
    listed = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in rows)
    about = ""
    if chosen_by_model and image.decision_probabilities is not None:
        about = "<p>The percentage is about the choice between retrieving and generating, not about this image.</p>"
    return f"<dl>{listed}</dl>{about}"


def _facts(image: "GillImage") -> Iterator[tuple[str, str]]:
    if image.score is not None:
        yield "Similarity to the text", f"{image.score:.2f}"
    if image.source == "retrieved":
        yield "Origin", image.origin or "the retrieval set"
        yield "Caption", image.caption or "none"
    else:
        yield "Origin", "drawn for this answer"


def _other_figure(image: "GillImage") -> str:
    if image.image is None:
        return ""
    facts = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in _facts(image))
    return (
        f'<figure class="gill-{image.source}"><img src="{data_uri(image.image)}" alt="{image.source} candidate">'
        f'<figcaption><span class="gill-badge">{image.source}</span><dl>{facts}</dl></figcaption></figure>'
    )


__all__ = [
    "data_uri",
    "figure_html",
    "image_bytes_of",
    "is_placeholder",
    "note_html",
    "placeholder_html",
    "waiting_html",
]
