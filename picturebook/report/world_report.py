"""Reports about the world: counts, contact sheets, a page, and a dataset of pairs to train on."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_gill.contact_sheet import contact_sheet

from ..arguments import WorldArguments
from ..world.caption_grammar import describe
from ..world.dialogue_sampling import SceneDialogue
from ..world.documents import documents, vocabulary
from ..world.drawing import draw, image_rows
from ..world.pairs import draw_all, illustrated_stories, sample_pairs, save_pairs
from ..world.phrases import BACKGROUND_PHRASES
from ..world.reader import correct_shares, read
from ..world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, SceneObject, all_scenes, is_retrievable
from ..world.splits import SPLITS, TEST, TRAIN, VALIDATION, combinations_of, dialogues, scene_in, stream
from ..world.story_sampling import SceneStory
from .pages import write_page

_NUM_READ, _NUM_STORIES = 1_000, 200


def write_world(arguments: WorldArguments) -> None:
    """
    Print how many scenes, words and stories there are, and write what the options ask for.

    With `sheet`, these are `objects.png`, `scenes.png` and `index.html`; with `pairs`, the dataset `pairs/`.

    Raises:
        ImportError: `pairs` needs `datasets`, which is not installed.

    Example:

        >>> from picturebook import WorldArguments, write_world
        >>> write_world(WorldArguments(out=Path("runs/world"), sheet=True))  # doctest: +SKIP
    """
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    print_counts(arguments.seed)
    if arguments.sheet:
        write_sheets(out, arguments.seed)
    if arguments.pairs:
        save_pairs(out / "pairs", {TRAIN: arguments.pairs, VALIDATION: arguments.pairs // 20}, arguments.seed)
        print(f"{arguments.pairs} pairs to train on: {out / 'pairs'}")


def print_counts(seed: int) -> None:
    """Print the size of the world, the accuracy of the reader and the length of the texts."""
    print(f"{sum(1 for _ in all_scenes()):,} scenes, {len(vocabulary())} words")
    pairs = sample_pairs(TEST, _NUM_READ, stream(seed, TEST, "counts"))
    shares = correct_shares(pairs.images, pairs.scenes)
    print("right readings of drawn test images: " + ", ".join(f"{name} {100 * x:.1f} %" for name, x in shares.items()))
    for split in SPLITS:
        complete = np.mean([story.complete for story, _ in illustrated_stories(split, _NUM_STORIES, seed)])
        length = np.mean([len(text.split()) for text in islice(documents(split, seed), _NUM_STORIES)])
        print(
            f"{split}: {len(combinations_of(split))} combinations of two objects; {100 * complete:.0f} % of "
            f"{_NUM_STORIES} stories describe the last scene completely without images; {length:.0f} words per document"
        )


def write_sheets(folder: Path, seed: int) -> None:
    """Write `objects.png`, `scenes.png` and `index.html`."""
    objects = [
        draw(Scene((SceneObject(left, colour, "left"), SceneObject(right, colour, "right")), background))
        for background in BACKGROUNDS
        for colour in COLOURS
        for left, right in zip(KINDS[::2], KINDS[1::2], strict=True)
    ]
    contact_sheet(image_rows(objects, 12)).save(folder / "objects.png")
    generator = stream(seed, TRAIN, "sheet")
    scenes = draw_all([scene_in(TRAIN, generator) for _ in range(40)], generator)
    contact_sheet(image_rows(scenes, 8)).save(folder / "scenes.png")
    generator = stream(seed, TEST, "page")
    write_page(
        folder / "index.html",
        "world_report",
        objects=[_example_of(number) for number in range(len(KINDS))],
        stories=[_story_on_page(*story) for story in illustrated_stories(TEST, 6, seed)],
        dialogues=[_dialogue_on_page(dialogue, generator) for dialogue in dialogues(TEST, 4, seed)],
    )


def _example_of(number: int) -> tuple[np.ndarray, str, str]:
    kind, colour, place = KINDS[number], COLOURS[number % len(COLOURS)], PLACES[number // 2]
    background = BACKGROUNDS[number % len(BACKGROUNDS)]
    image = draw(Scene((SceneObject(kind, colour, place),), background))
    return image, f"{colour} {kind}", BACKGROUND_PHRASES[background]


def _story_on_page(story: SceneStory, images: np.ndarray) -> dict[str, Any]:
    panels = []
    for image, sentence, listener, scene in zip(
        images, story.sentences, story.listener, read(images).scenes(), strict=True
    ):
        notes = [f"listener: {describe(listener.known)}", f"reader: {'not sure' if scene is None else scene.key}"]
        panels.append((image, f"{sentence} .", notes))
    retrievable = "is" if is_retrievable(story.scenes[-1]) else "is not"
    complete = "describe it completely" if story.complete else "leave a part of it to the images"
    note = f"The last image {retrievable} in the retrieval set; the sentences {complete}."
    return {"panels": panels, "note": note}


def _dialogue_on_page(dialogue: SceneDialogue, generator: np.random.Generator) -> dict[str, Any]:
    return {
        "image": draw_all([dialogue.scene], generator)[0],
        "caption": describe(dialogue.known[-1]),
        "lines": dialogue.text().replace(" Q:", "\nQ:").splitlines(),
    }
