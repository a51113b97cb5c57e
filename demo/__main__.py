"""`python -m demo --out FOLDER`: tells picture stories, answers dialogues, and writes the page."""

import argparse
import sys
import time
import webbrowser
from pathlib import Path

import torch

from picturebook.adapters import load_pipeline
from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.data import draw_all
from picturebook.splits import TEST, dialogues, stories, stream

from .page import render_page
from .telling import ask, tell

_STORIES, _DIALOGUES, _LOOKED_THROUGH = 4, 3, 40


def main() -> None:
    """Run the demonstration and say where the page is."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=CHECKPOINT, help="GILL repository (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="another seed tells other stories (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    begun = time.monotonic()
    try:
        pipe = load_pipeline(args.model)
    except (OSError, ValueError) as error:
        sys.exit(f"demo: {args.model} cannot be loaded: {error}")
    # Of the test split: nothing of this was seen in training. Taken as they come.
    told = tell(pipe, stories(TEST, _STORIES, args.seed), args.seed)
    asked = [one for one in dialogues(TEST, _LOOKED_THROUGH, args.seed) if one.known[-1].complete][:_DIALOGUES]
    pictures = draw_all([one.scene for one in asked], stream(args.seed, TEST, "pictures of dialogues"))
    answered = ask(pipe, asked, pictures, args.seed)
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
