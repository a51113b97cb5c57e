"""The paper's tables in miniature, as Markdown, JSON and a page. Test items were never seen while training."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import diffusers
import transformers

from modeling_gill.atomic_write_gill import replace_file

from ..arguments import TableName, TablesArguments
from ..checkpoint_folder import find_checkpoint
from ..models.dreamllm import load_dreamllm_pipeline
from ..models.gill_answers import load_pipeline
from ..stages.ablations import AblationRun
from ..world.reader import correctness, read
from .ablation_tables import ablation_tables
from .decision_table import answer_decision_items, decision_table
from .dream_table import dream_tables
from .pages import write_page
from .refined_table import refined_table
from .results_table import Table
from .retrieval_table import retrieval_table
from .rounds_table import rounds_table
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
        ValueError: `arguments.model` has no retrieval set, or `arguments.ablations` was trained for another one.

    Example:

        >>> from picturebook import TablesArguments, write_tables
        >>> write_tables(TablesArguments(out=Path("runs/tables"), items=50))  # doctest: +SKIP
    """
    # Texts of dialogues that are cut are told in the note of their table.
    transformers.logging.set_verbosity_error()
    diffusers.logging.set_verbosity_error()
    model = arguments.model or find_checkpoint()
    pipe = load_pipeline(model)
    if pipe.retrieval_set is None:
        raise ValueError(f"{model} has no retrieval set; expected the repository of a picture book.")
    out, seed, items = Path(arguments.out), arguments.seed, arguments.items
    run = None if arguments.ablations is None else AblationRun(Path(arguments.ablations))
    stories = draw_stories(pipe, items, seed) if _wanted("stories", arguments) else None
    makers: dict[TableName, Callable[[], Iterable[Table]]] = {
        "stories": lambda: [] if stories is None else [story_table(pipe, stories)],
        "captions": lambda: [caption_table(pipe, draw_captions(pipe, items, seed))],
        "decision": lambda: [
            decision_table(answer_decision_items(pipe, _PROMPTS_PER_ITEM * items, seed, weaker), weaker)
            for weaker in (False, True)
        ],
        "seen": lambda: [seen_table(pipe, items, seed)],
        "retrieval": lambda: [retrieval_table(pipe, items, seed, run)],
        "rounds": lambda: [rounds_table(pipe, max(items // 2, 2), seed)],
        "refined": lambda: [refined_table(pipe, max(items // 4, 2), seed)],
        "ablations": lambda: [] if run is None else ablation_tables(run, max(items // 2, 2), seed),
        # The DreamLLM stands between the checkpoint's models.
        "dream": lambda: (
            [] if arguments.model else dream_tables(pipe, load_dreamllm_pipeline(base=pipe), items, seed, out / "dream")
        ),
    }
    tables = [_printed(table) for name, make in makers.items() if _wanted(name, arguments) for table in make()]
    results = {table.name: table.as_json() for table in tables} | {"items": items, "seed": seed}
    for name, text in (
        ("tables.md", "\n".join(table.markdown() for table in tables)),
        ("tables.json", json.dumps(results, indent=2) + "\n"),
    ):
        with replace_file(out / name) as new:
            new.write_text(text, encoding="utf-8")
    number_shown = 0 if stories is None else min(_NUM_SHOWN, len(stories.stories))
    shown = [_story_on_page(stories, number) for number in range(number_shown) if stories is not None]
    write_page(out / "index.html", "tables", tables=tables, stories=shown)
    return tables


def _wanted(name: TableName, arguments: TablesArguments) -> bool:
    return arguments.only in (None, name)


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
