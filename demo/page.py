"""One HTML page with prompts, answers, pictures and decisions side by side; everything is inside of it."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from pipeline_gill import GillPicture

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1b22; --soft: #6b6875; --paper: #faf9f7; --card: #fff; --line: #e4e1dc;
        --generate: #b3541e; --retrieve: #1e6fb3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ebe9f0; --soft: #a09caa; --paper: #17161b; --card: #211f27; --line: #37343f;
          --generate: #e58a55; --retrieve: #6bb0ea; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 64rem; margin: auto; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
.lead { color: var(--soft); margin: 0 0 1.2rem; }
.notice { border-left: 4px solid var(--generate); background: var(--card); padding: .7rem 1rem; margin: 0 0 2rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem;
          margin: 0 0 1.5rem; display: grid; grid-template-columns: 1fr 2fr; gap: 1.5rem; }
@media (max-width: 44rem) { article { grid-template-columns: 1fr; } }
h2 { font-size: .8rem; letter-spacing: .06em; text-transform: uppercase; color: var(--soft); margin: 0 0 .6rem; }
.prompt img { max-width: 100%; max-height: 10rem; border-radius: 8px; display: block; margin: .4rem 0; }
.prompt p, .answer p { margin: .2rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .6rem; }
figure { margin: 0; width: 13rem; }
figure img { width: 13rem; height: 13rem; object-fit: cover; border-radius: 8px; display: block;
             border: 3px solid transparent; background: var(--line); }
figure img.small { image-rendering: pixelated; }
.chosen img { border-color: currentColor; }
.generated { color: var(--generate); } .retrieved { color: var(--retrieve); }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .3rem; }
figcaption b { color: inherit; }
.badge { color: #fff; background: var(--soft); border-radius: 99px; padding: .05rem .55rem; font-size: .75rem; }
.chosen.generated .badge { background: var(--generate); } .chosen.retrieved .badge { background: var(--retrieve); }
.bar { display: flex; height: 1.3rem; border-radius: 6px; overflow: hidden; margin-top: .9rem; font-size: .75rem;
       color: #fff; }
.bar div { text-indent: .4rem; white-space: nowrap; overflow: hidden; }
.bar .g { background: var(--generate); } .bar .r { background: var(--retrieve); }
"""


def render_page(title: str, lead: str, notice: str | None, answers: Sequence[tuple[list[Any], list[Any]]]) -> str:
    """The page.

    Args:
        title, lead (`str`): Heading, and the line below it.
        notice (`str`, *optional*): What must not be overlooked.
        answers: Pairs of a prompt's pieces (texts and PIL pictures) and of its answer's (texts and [`GillPicture`]).
    """
    warning = f'<p class="notice" role="note"><strong>Note.</strong> {html.escape(notice)}</p>' if notice else ""
    body = "\n".join(_render_answer(prompt, answer) for prompt, answer in answers)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>{warning}\n{body}\n'
        "</main></body></html>\n"
    )


def _render_answer(prompt: list[Any], answer: list[Any]) -> str:
    asked = "".join(_render_piece(piece) for piece in prompt)
    texts = "".join(_render_piece(piece) for piece in answer if isinstance(piece, str))
    pictures = [piece for piece in answer if isinstance(piece, GillPicture)]
    # The preferred one comes first.
    shown = "".join(_render_picture(piece, chosen=number == 0) for number, piece in enumerate(pictures))
    bar = _render_probabilities(pictures[0].decision_probabilities) if pictures else ""
    return (
        f'<article><section class="prompt"><h2>Prompt</h2>{asked}</section>'
        f'<section class="answer"><h2>Answer</h2>{texts}<div class="pictures">{shown}</div>{bar}</section></article>'
    )


def _render_piece(piece: Any) -> str:
    if isinstance(piece, Image.Image):
        return f'<img alt="picture in the prompt" src="{_data_uri(piece)}">'
    return f"<p>{html.escape(piece)}</p>"


def _render_picture(picture: GillPicture, chosen: bool) -> str:
    image = picture.image
    small = "small" if image.width < 128 else ""
    badge = f'<span class="badge">{picture.source}{", chosen" if chosen else ""}</span>'
    words = f"“{html.escape(picture.caption)}”, " if picture.caption else ""
    score = "" if picture.score is None else f"score {picture.score:.2f}"
    return (
        f'<figure class="{picture.source}{" chosen" if chosen else ""}">'
        f'<img class="{small}" alt="{picture.source} picture" src="{_data_uri(image)}">'
        f"<figcaption>{badge} {words}{score}</figcaption></figure>"
    )


def _render_probabilities(probabilities: dict[str, float] | None) -> str:
    if probabilities is None:
        return ""
    shares = {name: 100 * probabilities[name] for name in ("generate", "retrieve")}
    said = {name: f"{name} {share:.0f} %" for name, share in shares.items()}
    # A sliver has no room for words.
    parts = "".join(
        f'<div class="{name[0]}" style="width:{share:.1f}%">{said[name] if share >= 20 else ""}</div>'
        for name, share in shares.items()
    )
    return f'<div class="bar" aria-label="decision: {", ".join(said.values())}">{parts}</div>'


def _data_uri(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((640, 640))
    file = io.BytesIO()
    image.save(file, "PNG" if image.width < 128 else "JPEG", quality=88)
    kind = "png" if image.width < 128 else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
