"""One HTML page to look at the world: its objects, stories with images, dialogues. Everything is inside of it."""

import html
from collections.abc import Sequence

import numpy as np

from ..world.caption_grammar import describe
from ..world.dialogue_sampling import SceneDialogue
from ..world.drawing import data_uri, draw
from ..world.pairs import draw_all
from ..world.phrases import BACKGROUND_PHRASES
from ..world.reader import read
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, Scene, SceneObject
from ..world.scene_subsets import is_retrievable
from ..world.story_sampling import SceneStory

STYLE = """
:root { color-scheme: light dark; --ink: #1c1b22; --soft: #6b6875; --paper: #faf9f7; --card: #fff; --line: #e4e1dc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ebe9f0; --soft: #a09caa; --paper: #17161b; --card: #211f27; --line: #37343f; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem 1rem 4rem; background: var(--paper); color: var(--ink);
       font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 66rem; margin: auto; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .8rem; }
.lead, figcaption small { color: var(--soft); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem;
          margin: 0 0 1.2rem; }
.row { display: flex; flex-wrap: wrap; gap: .9rem; }
figure { margin: 0; width: 11.4rem; } .objects figure { width: 7rem; }
img { width: 100%; image-rendering: pixelated; border-radius: 8px; display: block; }
figcaption { font-size: .88rem; margin-top: .35rem; } figcaption small { display: block; line-height: 1.35; }
.dialogue { display: flex; gap: 1.2rem; align-items: flex-start; } .dialogue p { margin: .15rem 0; }
"""


def render_world(
    stories: Sequence[tuple[SceneStory, np.ndarray]], dialogues: Sequence[SceneDialogue], generator: np.random.Generator
) -> str:
    """The page.

    Args:
        stories: With images, uint8 `(5, 32, 32, 3)`.
        dialogues: Their images are drawn here, with jitter from the generator.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The picture book</title><style>{STYLE}</style></head><body><main>"
        "<h1>The picture book</h1>"
        '<p class="lead">A little world, drawn by program and exactly known. Below each picture is what the sentence '
        "says, what someone knows who sees no picture, and what the reader sees in it.</p>\n"
        f"<h2>Things</h2>{_render_things()}\n"
        f"<h2>Stories</h2>{''.join(_render_story(*one) for one in stories)}\n"
        f"<h2>Dialogues</h2>{''.join(_render_dialogue(one, generator) for one in dialogues)}\n"
        "</main></body></html>\n"
    )


def _render_things() -> str:
    metrics = []
    for number, kind in enumerate(KINDS):
        colour, background = COLOURS[number % len(COLOURS)], BACKGROUNDS[number % len(BACKGROUNDS)]
        image = draw(Scene((SceneObject(kind, colour, ("left", "right", "top", "bottom")[number // 2]),), background))
        metrics.append(render_figure(image, f"{colour} {kind}", BACKGROUND_PHRASES[background]))
    return f'<article><div class="row things">{"".join(metrics)}</div></article>\n'


def _render_story(story: SceneStory, images: np.ndarray) -> str:
    seen = read(images).scenes()
    metrics = [
        render_figure(
            image,
            f"{sentence} .",
            f"told: {describe(listener.known)}",
            "reader: " + (found.key if found is not None else "not sure"),
        )
        for image, sentence, listener, found in zip(images, story.sentences, story.listener, seen, strict=True)
    ]
    last = "is ordinary and in the library" if is_retrievable(story.scenes[-1]) else "is fantasy and in no library"
    told = "tell all of it" if story.complete else "do not tell all of it: pictures are needed"
    note = f"The last picture {last}; the sentences alone {told}."
    return f'<article><div class="row">{"".join(metrics)}</div><p class="lead">{note}</p></article>\n'


def _render_dialogue(dialogue: SceneDialogue, generator: np.random.Generator) -> str:
    lines = dialogue.text().replace(" Q:", "\nQ:").splitlines()
    said = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    image = draw_all([dialogue.scene], generator)[0]
    figure = render_figure(image, describe(dialogue.known[-1]))
    return f'<article class="dialogue">{figure}<div>{said}</div></article>\n'


def render_figure(image: np.ndarray, caption: str, *notes: str, css: str = "") -> str:
    """An image with its caption and, smaller, notes below.

    Args:
        image: uint8 `(32, 32, 3)`.
        css (`str`): Its class.
    """
    below = "".join(f"<small>{html.escape(note)}</small>" for note in notes if note)
    return (
        f'<figure class="{css}"><img alt="{html.escape(caption)}" src="{data_uri(image)}">'
        f"<figcaption>{html.escape(caption)}{below}</figcaption></figure>"
    )
