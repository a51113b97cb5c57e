"""The paper's tables in miniature, as Markdown, JSON and a page. Test items were never seen while training."""

import json
from pathlib import Path
from typing import Any

from modeling_gill.atomic_write_gill import replace_file

from ..arguments import TablesArguments
from ..checkpoint_folder import find_checkpoint
from ..models.gill_answers import load_pipeline
from ..world.reader import correctness, read
from .decision_table import answer_decision_items, decision_table
from .pages import write_page
from .results_table import Table
from .seen_table import seen_table
from .story_table import DrawnStories, caption_table, draw_captions, draw_stories, story_table

# Only for a few prompts in a hundred is the retrieved image right and the generated one wrong, so many are needed.
_PROMPTS_PER_ITEM = 4
_NUM_SHOWN = 10


def write_tables(arguments: TablesArguments) -> list[Table]:
    """
    Measure a picture book, print the tables, and write `tables.md`, `tables.json` and `index.html`.

    Raises:
        FileNotFoundError: no checkpoint is installed.
        ValueError: `arguments.model` has no retrieval set.

    Example:

        >>> from picturebook import TablesArguments, write_tables
        >>> write_tables(TablesArguments(out=Path("runs/tables"), items=50))  # doctest: +SKIP
    """
    model = arguments.model or find_checkpoint()
    pipe = load_pipeline(model)
    if pipe.retrieval_set is None:
        raise ValueError(f"{model} has no retrieval set; expected the repository of a picture book.")
    out, seed, items = Path(arguments.out), arguments.seed, arguments.items
    stories = draw_stories(pipe, items, seed)
    tables = [
        _printed(story_table(pipe, stories)),
        _printed(caption_table(pipe, draw_captions(pipe, items, seed))),
        *(
            _printed(decision_table(answer_decision_items(pipe, _PROMPTS_PER_ITEM * items, seed, weaker), weaker))
            for weaker in (False, True)
        ),
        _printed(seen_table(pipe, items, seed)),
    ]
    results = {table.name: table.as_json() for table in tables} | {"items": items, "seed": seed}
    for name, text in (
        ("tables.md", "\n".join(table.markdown() for table in tables)),
        ("tables.json", json.dumps(results, indent=2) + "\n"),
    ):
        with replace_file(out / name) as new:
            new.write_text(text, encoding="utf-8")
    shown = [_story_on_page(stories, number) for number in range(min(_NUM_SHOWN, len(stories.stories)))]
    write_page(out / "index.html", "tables", tables=tables, stories=shown)
    return tables


def _printed(table: Table) -> Table:
    print(table.markdown(), flush=True)
    return table


def _story_on_page(stories: DrawnStories, number: int) -> dict[str, Any]:
    story, images = stories.stories[number]
    answers = []
    for name, drawn in stories.drawn.by_system.items():
        is_right = correctness(read(drawn[number : number + 1]), [stories.drawn.scenes[number]])["scene"][0]
        answers.append((drawn[number], name, stories.texts[name][number] if name in stories.texts else "", is_right))
    panels = [(image, f"{sentence} .") for image, sentence in zip(images, story.sentences, strict=True)]
    return {"panels": panels, "answers": answers}
