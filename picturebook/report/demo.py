"""Tell image stories, answer dialogues, and write the page: `python -m picturebook.show --out DIR`.

Stories and dialogues are of the test split, as they come, but for those that leave something untold.
"""

import argparse
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

import torch

from ..embed import CHECKPOINT
from ..models.gill_answers import load_pipeline
from ..world.pairs import draw_all
from ..world.splits import TEST, dialogues, stories, stream
from .demo_page import render_page
from .storytelling import answer_dialogues, illustrate_stories

_STORIES, _DIALOGUES, _LOOKED_THROUGH = 4, 3, 40


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstration and say where the page is."""
    parser = argparse.ArgumentParser(prog="picturebook.show", description="Tell picture stories on one page.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="GILL repository (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="another seed tells other stories (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)

    begun = time.monotonic()
    try:
        pipe = load_pipeline(args.model)
    except (OSError, ValueError) as error:
        sys.exit(f"show: {args.model} cannot be loaded: {error}")
    # Of the test split: nothing of this was seen in training. Stories that leave nothing out, so that it is known what
    # each image must show, and otherwise as they come.
    told = illustrate_stories(pipe, stories(TEST, _STORIES, args.seed, 0.0), args.seed)
    asked = [one for one in dialogues(TEST, _LOOKED_THROUGH, args.seed) if one.known[-1].complete][:_DIALOGUES]
    images = draw_all([one.scene for one in asked], stream(args.seed, TEST, "pictures of dialogues"))
    answered = answer_dialogues(pipe, asked, images, args.seed)
    page = args.out / "index.html"
    page.write_text(render_page(told, answered), encoding="utf-8")
    took = time.monotonic() - begun
    print(f"{_STORIES} stories and {len(answered)} dialogues in {took:.0f} s on {pipe.device}", end="")
    print(f", {torch.get_num_threads()} threads" if pipe.device.type == "cpu" else "")
    print(f"The page: {page.resolve().as_uri()}")
    if args.open:
        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
