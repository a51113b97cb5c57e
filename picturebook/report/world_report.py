"""Look at the world, and write its pairs of image and caption.

    python -m picturebook.world --out DIR --sheet
    python -m picturebook.world --out DIR --pairs 20000

Prints how much there is of everything. With `--sheet` writes contact sheets (`objects.png`, `scenes.png`) and
`index.html`, stories and dialogues with images; with `--pairs` the data set `pairs/`, which `training_gill` reads.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from ..world.documents import documents, vocabulary
from ..world.drawing import contact_sheet, draw
from ..world.pairs import draw_all, illustrated_stories, sample_pairs, save_pairs
from ..world.reader import correctness, read
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, Scene, SceneObject, scene_numbers
from ..world.splits import SPLITS, TEST, TRAIN, VALIDATION, combinations_of, dialogues, scene_in, stream
from .world_page import render_world

_MEASURED = 1_000


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; mistakes of the user end it with one line and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        print_counts(options.seed)
        if options.sheet:
            write_sheets(options.out, options.seed)
        if options.pairs:
            save_pairs(options.out / "pairs", {TRAIN: options.pairs, VALIDATION: options.pairs // 20}, options.seed)
            print(f"{options.pairs} pairs to train on: {options.out / 'pairs'}")
    except (OSError, ImportError) as error:
        sys.exit(f"world: {error}")


def print_counts(seed: int) -> None:
    """How much there is of everything, and how well the reader reads."""
    print(f"{len(scene_numbers()):,} scenes, {len(vocabulary())} words")
    pairs = sample_pairs(TEST, _MEASURED, stream(seed, TEST, "counts"))
    correct_shares = {name: found.mean() for name, found in correctness(read(pairs.images), pairs.scenes).items()}
    print(
        "the reader, right on drawn test pictures: "
        + ", ".join(f"{name} {100 * x:.1f} %" for name, x in correct_shares.items())
    )
    for split in SPLITS:
        told = [story for story, _ in illustrated_stories(split, 200, seed)]
        complete = sum(story.complete for story in told) / len(told)
        length = np.mean([len(text.split()) for text in islice(documents(split, seed), 200)])
        print(
            f"{split}: {len(combinations_of(split))} combinations of two things; of 200 stories {100 * complete:.0f} % "
            f"tell all of the last scene without pictures; {length:.0f} words a document"
        )


def write_sheets(folder: Path, seed: int) -> None:
    """`objects.png`, `scenes.png` and `index.html`."""
    objects = [
        draw(Scene((SceneObject(one, colour, "left"), SceneObject(other, colour, "right")), name))
        for name in BACKGROUNDS
        for colour in COLOURS
        for one, other in zip(KINDS[::2], KINDS[1::2], strict=True)
    ]
    contact_sheet(objects, 12).save(folder / "things.png")
    generator = stream(seed, TRAIN, "sheet")
    contact_sheet(list(draw_all([scene_in(TRAIN, generator) for _ in range(40)], generator)), 8, factor=5).save(
        folder / "scenes.png"
    )
    page = render_world(illustrated_stories(TEST, 6, seed), dialogues(TEST, 4, seed), stream(seed, TEST, "page"))
    (folder / "index.html").write_text(page, encoding="utf-8")
    print(f"The page: {(folder / 'index.html').resolve().as_uri()}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("picturebook.world", description="Look at the world, and write its pairs.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--sheet", action="store_true", help="write contact sheets and a page")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="write N pairs of picture and caption")
    parser.add_argument("--seed", type=int, default=0, help="another seed shows other examples (default: 0)")
    return parser


if __name__ == "__main__":
    main()
