"""Write the card of a repository's folder, or update one that was edited."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation_gill.results import write_text
from pipeline_gill import GillPipeline
from pipeline_gill.pipeline_repository_gill import CARD_FILE

from .arguments import CardOptions
from .card import TEMPLATE, make_card
from .edits import merge
from .facts import Facts
from .gathering import gather
from .samples import GRID_FILE, LIST_FILE, SAMPLES_FOLDER, answer_prompts, read_samples


def write_card(folder: str | os.PathLike[str], **options: Any) -> list[str]:
    """Write the model card of a repository's folder, keeping what was edited in it.

    Args:
        folder: Folder of the repository.
        options: Fields of [`~hub_card.arguments.CardOptions`], such as `repo_id`, `license` and `results`.

    Returns:
        `list[str]`: A description of each edit that was kept in place of generated text.

    Raises:
        OSError, ValueError: the repository is incomplete, or results, samples or the existing card cannot be read.

    Example:

    ```python
    >>> import gill
    >>> gill.write_card("my-model", repo_id="org/my-model", license="apache-2.0")  # doctest: +SKIP
    []
    ```
    """
    return _write(CardOptions(folder=Path(folder), **options))


def write_card_and_print(options: CardOptions) -> None:
    """The command `gill card`."""
    kept = _write(options)
    print(f"wrote {options.folder / CARD_FILE}")
    for what in kept:
        print(f"  kept as you have it: {what}")


def _write(options: CardOptions) -> list[str]:
    place = options.folder / CARD_FILE
    facts = facts_of(options)
    existing = place.read_text(encoding="utf-8") if place.is_file() else None
    text, kept = merge(existing, make_card(facts, options.template or TEMPLATE))
    write_text(place, text)
    return kept


def facts_of(options: CardOptions) -> Facts:
    """The facts of a folder, with those that the options give.

    Raises:
        OSError, ValueError: as [`gather`] and [`read_samples`].
    """
    facts = gather(
        options.folder,
        repo_id=options.repo_id,
        license=options.license,
        license_name=options.license_name,
        license_link=options.license_link,
        base_licenses=dict(pair.split("=", 1) for pair in options.base_license),
        results=options.results,
        languages=options.language,
        datasets=options.dataset,
    )
    place = options.folder / SAMPLES_FOLDER
    if options.samples is not None and options.samples.resolve() != place.resolve():
        read_samples(options.samples)
        shutil.copytree(options.samples, place, dirs_exist_ok=True)
    if options.prompt:
        pipeline = GillPipeline.from_pretrained(options.folder)
        size = {} if options.size is None else {"height": options.size, "width": options.size}
        answer_prompts(pipeline, options.prompt, place, num_inference_steps=options.steps, **size)
    return with_samples(facts, options.folder)


def with_samples(facts: Facts, folder: Path) -> Facts:
    """Facts with the samples of a repository's folder, if there are any."""
    place = folder / SAMPLES_FOLDER
    if not (place / LIST_FILE).is_file():
        return facts
    grid = f"{SAMPLES_FOLDER}/{GRID_FILE}" if (place / GRID_FILE).is_file() else None
    return replace(facts, samples=read_samples(place), sample_grid=grid)
