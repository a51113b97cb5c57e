"""DreamLLM beside GILL: single images, and whole stories that are written and drawn in turn, judged image by image."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill import GillImage, GillPipeline
from pipeline_gill.contact_sheet import contact_sheet

from ..arguments import DreamTablesArguments
from ..checkpoint_folder import find_checkpoint
from ..models import batches
from ..models.dreamllm import load_dreamllm_pipeline
from ..models.gill_answers import generate_images, load_pipeline
from ..models.image_generator import GUIDANCE_SCALE, INFERENCE_STEPS, noise_seeds, plain_captions
from ..world.backgrounds import IMAGE_SIZE
from ..world.drawing import from_images, image_rows, to_images
from ..world.events import ListenerState
from ..world.pairs import draw_all, illustrated_stories
from ..world.partial_scene import fully_known
from ..world.phrases import IMAGE_REQUEST
from ..world.prompts import story_prompt
from ..world.reader import read
from ..world.scene import Scene
from ..world.splits import TEST, scene_in, stream
from ..world.story_listener import StoryError, fits, hear, sentences_of
from ..world.story_sampling import SENTENCES, SceneStory
from .results_table import Table, counted, mean_of
from .story_table import COLUMNS, Drawn, table_rows

DREAM, DREAM_PAIRS, DENOISED, GILL = (
    "DreamLLM",
    "DreamLLM, first stage",
    "GILL's mapper by the denoising loss",
    "GILL",
)
FIVE, IMAGES = "five captions", "five captions and four images"
WRITES, TOLD = "writes and draws", "draws what is told"
# Whole stories take five images each.
_SHARE_OF_WHOLE = 0.2
_MAX_NEW_TOKENS, _STORIES_SHOWN = 128, 8
_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th")
_WHOLE_COLUMNS = ("all told and drawn", *_ORDINALS, "all five", "goes on from the image before")


@dataclass(frozen=True)
class WholeStory:
    """A story with the images that a system drew.

    Attributes:
        texts: The text before each image, from the image before it on; of the first one with the prompt.
        images: uint8 `(num_images, 32, 32, 3)`, as many as there are texts.
    """

    texts: Sequence[str]
    images: np.ndarray


@dataclass(frozen=True)
class Judged:
    """What is right in a story, bool `(5,)` each.

    Attributes:
        followed: Whether there is an image, and all that was written before it can be followed.
        right: Whether the image also shows all that a listener knows who has heard these texts.
        goes_on: Whether it shows what becomes of the image before it by the text between them; not of the first one.
    """

    followed: np.ndarray
    right: np.ndarray
    goes_on: np.ndarray


def judge_story(texts: Sequence[str], scenes: Sequence[Scene | None]) -> Judged:
    """
    Judge the images of a story.

    Args:
        texts: As in [`WholeStory`].
        scenes: What the reader recognizes in each image; `None` where it is not sure.
    """
    followed, right, goes_on = np.zeros((3, SENTENCES), dtype=bool)
    listener: ListenerState | None = None
    seeing: ListenerState | None = None
    for number, (text, scene) in enumerate(zip(texts[:SENTENCES], scenes, strict=False)):
        try:
            for sentence in sentences_of(text):
                listener = hear(sentence, listener)
        except StoryError:
            break
        if listener is None:
            break
        followed[number] = True
        right[number] = scene is not None and fits(listener.known, scene)
        goes_on[number] = _goes_on(seeing, text, scene)
        seeing = None if scene is None else ListenerState(fully_known(scene, listener.known.kinds), listener.topic)
    return Judged(followed, right, goes_on)


def _goes_on(seeing: ListenerState | None, text: str, scene: Scene | None) -> bool:
    if seeing is None or scene is None:
        return False
    try:
        for sentence in sentences_of(text):
            seeing = hear(sentence, seeing)
    except StoryError:
        return False
    return fits(seeing.known, scene)


def whole_story_table(by_system: Mapping[str, Sequence[WholeStory]]) -> Table:
    """Whole stories, judged image by image."""
    rows = {}
    for name, stories in by_system.items():
        judged = [judge_story(story.texts, read(story.images).scenes()) for story in stories]
        followed, right, goes_on = (
            np.stack([getattr(one, what) for one in judged]) for what in ("followed", "right", "goes_on")
        )
        values = [followed.all(1), *right.T, right.all(1), goes_on[:, 1:].mean(1)]
        rows[name] = {column: mean_of(value) for column, value in zip(_WHOLE_COLUMNS, values, strict=True)}
    number = len(next(iter(by_system.values())))
    return Table(
        "whole_stories",
        "A whole story in turn, % right",
        _WHOLE_COLUMNS,
        rows,
        f"{counted(number, 'story', 'stories')} of the test split. *Writes and draws*: the first sentence is given, "
        "and the system goes on by itself for five images, each of which it reads before it writes on. *Draws what is "
        "told*: all five sentences are given, one after the other, and the images that it reads are its own. An image "
        "is right if it shows all that a listener knows who has heard the text before it; without an image, or after a "
        "sentence that is none or cannot be, nothing is right. The last column is the share of images 2 to 5 that "
        "show what becomes of the image before, as the reader sees it, by the text between them.",
    )


def tell_story(pipe: GillPipeline, stories: Sequence[SceneStory], seed: int, force_image: bool) -> list[WholeStory]:
    """Have a story drawn sentence by sentence; the system's own images become part of the prompt."""
    prompts: list[list[Any]] = [[] for _ in stories]
    drawn = []
    for number in range(SENTENCES):
        told = [f"{story.sentences[number]} ." for story in stories]
        asked = [[*prompt, f"{text} {IMAGE_REQUEST}"] for prompt, text in zip(prompts, told, strict=True)]
        images, _ = generate_images(pipe, asked, seed + number, force_image)
        drawn.append(images)
        for prompt, text, image in zip(prompts, told, to_images(images), strict=True):
            prompt += [text, image]
    by_story = np.stack(drawn, axis=1)
    return [
        WholeStory([f"{text} ." for text in story.sentences], images)
        for story, images in zip(stories, by_story, strict=True)
    ]


def write_stories(pipe: GillPipeline, stories: Sequence[SceneStory], seed: int) -> list[WholeStory]:
    """Have stories written and drawn from their first sentence on, by one call each of the pipeline for a batch."""
    prompts = [f"{story.sentences[0]} . {IMAGE_REQUEST}" for story in stories]
    written = []
    for batch in batches(list(zip(prompts, noise_seeds(seed, len(prompts)), strict=True))):
        out = pipe(
            [prompt for prompt, _ in batch],
            generator=[generator for _, generator in batch],
            decision="generate",
            max_images=SENTENCES,
            read_back=True,
            max_new_tokens=_MAX_NEW_TOKENS,
            truncate_text=False,
            num_inference_steps=INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        written += [_as_story(prompt, answer) for (prompt, _), answer in zip(batch, out.answers, strict=True)]
    return written


def _as_story(prompt: str, answer: Sequence[str | GillImage]) -> WholeStory:
    texts, images, before = [], [], prompt
    for piece in answer:
        if isinstance(piece, str):
            before = f"{before} {piece}"
        else:
            texts.append(before)
            images.append(piece.image)
            before = ""
    shape = (0, IMAGE_SIZE, IMAGE_SIZE, 3)
    return WholeStory(texts, from_images(images) if images else np.zeros(shape, dtype=np.uint8))


def write_dream_tables(arguments: DreamTablesArguments) -> list[Table]:
    """
    Measure, print the tables, and write `dream.md`, `dream.json` and `stories.png`. A run that was stopped keeps its
    answers.

    Raises:
        FileNotFoundError: the checkpoint or the DreamLLM is not there; the message says how to get it.

    Example:

        >>> from picturebook import DreamTablesArguments, write_dream_tables
        >>> write_dream_tables(DreamTablesArguments(out=Path("runs/dream-tables"), items=50))  # doctest: +SKIP
    """
    out = Path(arguments.out)
    base = load_pipeline(find_checkpoint())
    dream = load_dreamllm_pipeline(arguments.dreamllm, base)
    made = dream_tables(base, dream, arguments.items, arguments.seed, out, arguments.trained)
    tables = [_printed(table) for table in made]
    results = {table.name: table.as_json() for table in tables} | {"items": arguments.items, "seed": arguments.seed}
    for name, text in (
        ("dream.md", "\n".join(table.markdown() for table in tables)),
        ("dream.json", json.dumps(results, indent=2) + "\n"),
    ):
        with replace_file(out / name) as new:
            new.write_text(text, encoding="utf-8")
    return tables


def dream_tables(
    base: GillPipeline, dream: GillPipeline, items: int, seed: int, out: Path, trained: Path | None = None
) -> Iterator[Table]:
    """
    The three tables of DreamLLM beside GILL, one after the other.

    Args:
        base, dream ([`GillPipeline`]): The picture book's GILL, and its DreamLLM.
        items (`int`): Test items; a fifth as many whole stories.
        out (`Path`): Folder of contact sheets, and of answers, which are kept.
        trained (`Path`, *optional*): Folder of `gill picturebook dream`.
    """
    systems: dict[str, tuple[GillPipeline, bool]] = {GILL: (base, False), DREAM: (dream, True)}
    if trained is not None:
        systems |= {
            DENOISED: (load_pipeline(trained / "gill_denoising"), False),
            DREAM_PAIRS: (load_pipeline(trained / "pairs"), True),
        }
    kept = _Kept(out / "answers" / f"{items}-{seed}")
    yield _captions(base, systems, items, seed, kept)
    yield _stories(base, systems, items, seed, kept)
    yield _whole_stories(base, dream, max(round(_SHARE_OF_WHOLE * items), 1), seed, kept, out)


class _Kept:
    """Images in files of a folder, drawn once by the same weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self, name: str, draw: Callable[[], np.ndarray]) -> np.ndarray:
        """uint8 `(num_images, 32, 32, 3)`."""
        return self._arrays(name, lambda: {"images": draw()})["images"]

    def stories(self, name: str, tell: Callable[[], list[WholeStory]]) -> list[WholeStory]:
        """Stories of up to five images."""

        def arrays() -> dict[str, np.ndarray]:
            told = tell()
            texts = np.array([json.dumps(list(story.texts)) for story in told])
            return {"texts": texts, **{f"images-{number}": story.images for number, story in enumerate(told)}}

        found = self._arrays(name, arrays)
        return [
            WholeStory(json.loads(str(texts)), found[f"images-{number}"]) for number, texts in enumerate(found["texts"])
        ]

    def _arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        path = self.folder / f"{''.join(letter if letter.isalnum() else '-' for letter in name)}.npz"
        if not path.exists():
            made = make()
            with replace_file(path) as new, open(new, "wb") as file:
                np.savez_compressed(file, **made)  # type: ignore[arg-type]
            print(f"drawn: {name}", flush=True)
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}


def _digest(pipe: GillPipeline) -> str:
    """What a model's weights are known by, so that nothing of another one is taken for its own."""
    digest = hashlib.sha256()
    for name, weight in pipe.model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _draw(pipe: GillPipeline, prompts: Sequence[Any], seed: int, force_image: bool) -> np.ndarray:
    return generate_images(pipe, prompts, seed, force_image)[0]


def _captions(
    base: GillPipeline, systems: Mapping[str, tuple[GillPipeline, bool]], items: int, seed: int, kept: _Kept
) -> Table:
    generator = stream(seed, TEST, "captions to draw")
    scenes = [scene_in(TEST, generator, 0.0) for _ in range(items)]
    truth = draw_all(scenes, generator)
    drawn = {}
    for name, (pipe, is_forced) in systems.items():
        # DreamLLM draws after a request, as in its documents.
        asked = [f"{caption} . {IMAGE_REQUEST}" if is_forced else caption for caption in plain_captions(scenes)]
        key = f"captions {name} {_digest(pipe)}"
        drawn[name] = kept.images(key, partial(_draw, pipe, asked, seed, is_forced))
    note = f"{counted(items, 'scene')} of the test split, those of the table of GILL."
    table = Table(
        "captions",
        "One full caption of two objects, % right",
        COLUMNS,
        table_rows(base, Drawn(truth, scenes, drawn)),
        note,
    )
    return table


def _stories(
    base: GillPipeline, systems: Mapping[str, tuple[GillPipeline, bool]], items: int, seed: int, kept: _Kept
) -> Table:
    stories = illustrated_stories(TEST, items, seed)
    prompts = {
        FIVE: [story_prompt(story) for story, _ in stories],
        IMAGES: [story_prompt(story, images) for story, images in stories],
    }
    drawn = {}
    for name, (pipe, is_forced) in systems.items():
        for given, asked in prompts.items():
            key = f"stories {name} {given} {_digest(pipe)}"
            drawn[f"{name}, {given}"] = kept.images(key, partial(_draw, pipe, asked, seed, is_forced))
    truth = np.stack([images[-1] for _, images in stories])
    rows = table_rows(base, Drawn(truth, [story.scenes[-1] for story, _ in stories], drawn))
    note = f"{counted(items, 'story', 'stories')} of the test split, those of the table of GILL."
    return Table("stories", "The last image of a story, % right", COLUMNS, rows, note)


def _whole_stories(base: GillPipeline, dream: GillPipeline, number: int, seed: int, kept: _Kept, out: Path) -> Table:
    stories = [story for story, _ in illustrated_stories(TEST, number, seed)]
    by_system = {}
    for name, pipe, is_forced in ((DREAM, dream, True), (GILL, base, False)):
        for does, tell in (
            (WRITES, partial(write_stories, pipe, stories, seed)),
            (TOLD, partial(tell_story, pipe, stories, seed, is_forced)),
        ):
            by_system[f"{name}, {does}"] = kept.stories(f"{number} {name} {does} {_digest(pipe)}", tell)
    for name, told in by_system.items():
        _write_sheet(out, name, told[:_STORIES_SHOWN])
    return whole_story_table(by_system)


def _write_sheet(out: Path, name: str, stories: Sequence[WholeStory]) -> None:
    """A contact sheet of stories, one a row, and their texts."""
    black = np.asarray(Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)))
    images = [
        story.images[number] if number < len(story.images) else black
        for story in stories
        for number in range(SENTENCES)
    ]
    stem = "".join(letter if letter.isalnum() else "-" for letter in name)
    contact_sheet(image_rows(images, SENTENCES)).save(out / f"{stem}.png")
    with replace_file(out / f"{stem}.txt") as new:
        new.write_text("\n".join(" | ".join(story.texts) for story in stories) + "\n", encoding="utf-8")


def _printed(table: Table) -> Table:
    print(table.markdown(), flush=True)
    return table
