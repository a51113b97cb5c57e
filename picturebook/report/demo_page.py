"""One HTML page with stories, dialogues, images and decisions; everything is inside of it."""

import html
from collections.abc import Sequence

from PIL import Image

from pipeline_gill import GillImage

from ..world.drawing import data_uri, from_images
from .storytelling import AnsweredDialogue, StoryPanel

_STYLE = """
:root { color-scheme: light dark; --ink: #26222c; --soft: #6f6a78; --paper: #f6f2ea; --card: #fffdf9; --line: #e6dfd2;
        --generated: #b3541e; --retrieved: #1e6fb3; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ebe9f0; --soft: #a09caa; --paper: #17161b; --card: #211f27; --line: #37343f;
          --generated: #e58a55; --retrieved: #6bb0ea; --wrong: #f2807a; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 Georgia, "Iowan Old Style", serif; }
main { max-width: 72rem; margin: auto; }
h1 { font-size: 2rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .8rem; }
.lead { color: var(--soft); margin: 0 0 1rem; max-width: 46rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.2rem;
          margin: 0 0 1.3rem; }
.story { display: grid; grid-template-columns: repeat(5, 1fr); gap: 1rem; }
@media (max-width: 52rem) { .story { grid-template-columns: repeat(2, 1fr); } }
.dialogue { display: grid; grid-template-columns: 1fr 13rem; gap: 1.5rem; }
@media (max-width: 36rem) { .dialogue { grid-template-columns: 1fr; } }
figure { margin: 0; }
img { width: 100%; image-rendering: pixelated; border-radius: 8px; display: block; }
.dialogue .seen { width: 9rem; margin-bottom: .6rem; }
.dialogue p { margin: .15rem 0; } .asked { font-weight: bold; }
figcaption { margin-top: .5rem; } figcaption p { margin: 0 0 .3rem; }
small { display: block; color: var(--soft); font: .78rem/1.45 system-ui, sans-serif; }
.badge { font: 600 .72rem/1 system-ui, sans-serif; color: #fff; border-radius: 99px; padding: .22rem .55rem;
         display: inline-block; margin-bottom: .35rem; }
.generated .badge { background: var(--generated); } .retrieved .badge { background: var(--retrieved); }
.wrong { color: var(--wrong); font-weight: 600; }
"""

_LEAD = (
    "A language model, an image encoder and an image generator, each trained from scratch on a little drawn world and "
    "then frozen, joined by GILL's adapters. Every picture below is its answer to what was told so far, its own "
    "earlier pictures included: it decides each time whether to retrieve a picture that exists or to generate one. "
    "None of these stories and dialogues, and none of their pairs of things, were in its training."
)


def render_page(stories: Sequence[Sequence[StoryPanel]], dialogues: Sequence[AnsweredDialogue]) -> str:
    """The page."""
    images = [panel for story in stories for panel in story] + list(dialogues)
    are_right = sum(one.is_right for one in images)
    verdict = (
        f"{are_right} of the {len(images)} pictures show all that they should, down to every colour and place; the "
        "others are marked."
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>GILL's picture book</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>GILL\'s picture book</h1><p class="lead">{_LEAD}</p><p class="lead">{verdict}</p>\n'
        f"<h2>Stories</h2>{''.join(_render_story(story) for story in stories)}\n"
        f"<h2>Dialogues</h2>{''.join(_render_dialogue(one) for one in dialogues)}\n"
        "</main></body></html>\n"
    )


def _render_story(panels: Sequence[StoryPanel]) -> str:
    metrics = "".join(
        _render_image(panel.image, f"<p>{html.escape(_sentence(panel.sentence))}</p>", panel.written, panel.is_right)
        for panel in panels
    )
    return f'<article class="story">{metrics}</article>\n'


def _render_dialogue(answered: AnsweredDialogue) -> str:
    said = "".join(
        f'<p class="{"asked" if line.startswith("Q:") else ""}">{html.escape(line)}</p>'
        if isinstance(line, str)
        else f'<img class="seen" alt="picture that the dialogue is about" src="{_source(line)}">'
        for line in answered.lines
    )
    figure = _render_image(answered.image, "", answered.written, answered.is_right)
    return f'<article class="dialogue"><div>{said}</div>{figure}</article>\n'


def _render_image(image: GillImage | None, told: str, written: str, is_right: bool) -> str:
    if image is None:
        return f"<figure><figcaption>{told}<small>{html.escape(written)}: no picture</small></figcaption></figure>"
    chances = image.decision_probabilities or {}
    chance = f", {100 * chances[image.decision]:.0f} % sure" if image.decision in chances else ""
    mark = "" if is_right else '<small class="wrong">not what was told</small>'
    return (
        f'<figure class="{image.source}"><img alt="{html.escape(written)}" src="{_source(image.image)}">'
        f'<figcaption>{told}<span class="badge">{image.source}{chance}</span>'
        f"<small>GILL: {html.escape(written)}</small>{mark}</figcaption></figure>"
    )


def _sentence(words: str) -> str:
    """As people write it: `A red house, on the left.`"""
    text = words.replace(" .", ".").replace(" ,", ",")
    return text[:1].upper() + text[1:]


def _source(image: Image.Image) -> str:
    return data_uri(from_images([image])[0])
