"""The paper's tables in miniature: `python -m picturebook.tables --out DIR`.

Prints them and writes `tables.md`, `tables.json` and `index.html`, a page with the images. Test items were never seen
in training, nor in choosing how to train.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import transformers

from ..embed import CHECKPOINT
from ..models.gill_answers import load_pipeline
from .decision_table import answer_decision_items, decision_table
from .story_table import caption_table, draw_captions, draw_stories, story_table
from .tables_page import render_tables

ITEMS = 500
# So many times as many prompts to decide on: only a few in a hundred have a retrieved image alone that is right.
_PROMPTS = 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a repository that cannot be used ends it with one line and exit status 1."""
    options = _parser().parse_args(arguments)
    transformers.logging.set_verbosity_error()
    diffusers.logging.set_verbosity_error()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        pipe = load_pipeline(options.model)
        if pipe.retrieval_set is None:
            raise ValueError(f"{options.model} has no retrieval set; expected the repository of a picture book.")
        make_tables(pipe, options.out, options.items, options.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"tables: {error}")


def make_tables(pipe: Any, out: Path, items: int, seed: int) -> None:
    """Measure, print and write everything."""
    stories = draw_stories(pipe, items, seed)
    tables = [story_table(pipe, stories)]
    print(tables[-1].markdown(), flush=True)
    tables.append(caption_table(pipe, draw_captions(pipe, items, seed)))
    print(tables[-1].markdown(), flush=True)
    tables.append(decision_table(answer_decision_items(pipe, _PROMPTS * items, seed)))
    print(tables[-1].markdown(), flush=True)
    found = {table.name: table.as_json() for table in tables} | {"items": items, "seed": seed}
    for name, text in (
        ("tables.md", "\n".join(table.markdown() for table in tables)),
        ("tables.json", json.dumps(found, indent=2) + "\n"),
        ("index.html", render_tables(tables, stories)),
    ):
        partial = out / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(out / name)
    print(f"The page: {(out / 'index.html').resolve().as_uri()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("picturebook.tables", description="Measure GILL in the picture book's world.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="GILL repository (default: the embedded one)")
    parser.add_argument(
        "--items", type=int, default=ITEMS, help="test items; four times as many decisions (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the test items and of the noise (default: 0)")
    return parser


if __name__ == "__main__":
    main()
