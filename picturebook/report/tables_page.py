"""One HTML page of the tables, with the images of the first stories below. Everything is inside of it."""

import html
from collections.abc import Sequence

from ..world.reader import correctness, read
from .results_table import Table
from .story_table import DrawnStories
from .world_page import STYLE, render_figure

_SHOWN = 10
_MORE_STYLE = """
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.row figure { width: 7.2rem; } .right img { outline: 3px solid #3a8a4a; } .wrong img { outline: 3px solid #c2452f; }
"""


def render_tables(tables: Sequence[Table], stories: DrawnStories) -> str:
    """The page."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The picture book: tables</title><style>{STYLE}{_MORE_STYLE}</style></head><body><main>"
        "<h1>The paper's tables in miniature</h1>"
        f"{''.join(_render_table(table) for table in tables)}"
        "<h2>The first stories, and what each system drew for the last picture</h2>"
        '<p class="lead">Green frames are right in everything, red ones are not.</p>'
        f"{''.join(_render_story(stories, number) for number in range(min(_SHOWN, len(stories.stories))))}"
        "</main></body></html>\n"
    )


def _render_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    body = ""
    for name, metrics in table.rows.items():
        cells = "".join(
            f"<td>{metrics[column].percent() if column in metrics else ''}</td>" for column in table.columns
        )
        body += f"<tr><th>{html.escape(name)}</th>{cells}</tr>"
    return (
        f"<h2>{html.escape(table.title)}</h2><article><table><tr><th></th>{head}</tr>{body}</table>"
        f'<p class="lead">{html.escape(table.note)}</p></article>\n'
    )


def _render_story(stories: DrawnStories, number: int) -> str:
    story, images = stories.stories[number]
    told = "".join(
        render_figure(image, f"{sentence} .") for image, sentence in zip(images, story.sentences, strict=True)
    )
    drawn = ""
    for name, some in stories.drawn.by_system.items():
        image = some[number : number + 1]
        is_right = bool(correctness(read(image), [stories.drawn.scenes[number]])["scene"][0])
        said = stories.texts.get(name)
        drawn += render_figure(image[0], name, said[number] if said else "", css="right" if is_right else "wrong")
    return f'<article><div class="row">{told}</div><p></p><div class="row">{drawn}</div></article>\n'
