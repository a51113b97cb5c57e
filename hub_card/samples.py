"""Sample answers for a card: images of each, and a grid of all.

samples/samples.json   for each sample its prompt, decision, probability, and the files of its images
samples/grid.png       a row for each: prompt, retrieved, generated, decision
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from pipeline_gill.contact_sheet import contact_sheet
from pipeline_gill.pipeline_repository_gill import SAMPLES_FOLDER

from .facts import Sample

LIST_FILE = "samples.json"
GRID_FILE = "grid.png"
_DECISIONS = ("retrieve", "generate")  # in the order of their columns


def answer_prompts(
    pipeline: Any, prompts: Sequence[str], folder: Path, *, seed: int = 42, **drawing: Any
) -> list[Sample]:
    """Answer prompts, with both images if the pipeline can retrieve and generate, and write the images.

    Args:
        pipeline (`GillPipeline`), prompts (`Sequence[str]`)
        folder (`Path`): Where `samples.json`, the images and the grid go.
        drawing: Arguments of the pipeline such as `num_inference_steps` and `height`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    decision = "both" if pipeline.retrieval_set is not None and pipeline.has_image_generator else "auto"
    samples = []
    for number, prompt in enumerate(prompts):
        generator = torch.Generator().manual_seed(seed + number)
        answer = pipeline([prompt], decision=decision, force_image=True, generator=generator, **drawing)
        files: dict[str, str] = {}
        for image in answer.image_pieces[0]:
            if image.image is not None:
                files[image.source] = f"{number:02d}-{image.source}.png"
                image.image.save(folder / files[image.source])
        first = answer.image_pieces[0][0]
        decided = (first.decision_probabilities or {}).get(first.decision)
        samples.append(Sample(prompt, first.decision, decided, files.get("retrieved"), files.get("generated")))
    (folder / LIST_FILE).write_text(
        json.dumps([asdict(sample) for sample in samples], indent=1) + "\n", encoding="utf-8"
    )
    grid(samples, folder).save(folder / GRID_FILE)
    return read_samples(folder)


def read_samples(folder: Path) -> list[Sample]:
    """Read the samples of a folder; their images get the names that they have in the repository.

    Raises:
        OSError: `samples.json` or an image that it names is missing. ValueError: it cannot be read.
    """
    try:
        samples = [Sample(**sample) for sample in json.loads((folder / LIST_FILE).read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / LIST_FILE} is not a list of samples: {error}") from error
    for sample in samples:
        for name in (sample.retrieved, sample.generated):
            if name is not None and not (folder / name).is_file():
                raise OSError(f"{folder / LIST_FILE} names the image {name}, which is missing.")
    return [
        replace(sample, retrieved=_in_repository(sample.retrieved), generated=_in_repository(sample.generated))
        for sample in samples
    ]


def grid(samples: Sequence[Sample], folder: Path) -> Image.Image:
    """An image with a row for each sample; the image that the model decided for has a frame."""
    rows = [
        [_text_of(sample), *(_open(folder, name) for name in (sample.retrieved, sample.generated))]
        for sample in samples
    ]
    framed = [
        (row, 1 + _DECISIONS.index(sample.decision))
        for row, sample in enumerate(samples)
        if sample.decision in _DECISIONS and rows[row][1 + _DECISIONS.index(sample.decision)] is not None
    ]
    headings = ("prompt and decision", "retrieved", "generated")
    return contact_sheet(rows, cell=200, text_width=248, headings=headings, framed=framed)


def _text_of(sample: Sample) -> str:
    probability = f" ({sample.probability:.2f})" if sample.probability else ""
    decision = f"\n\n-> {sample.decision}{probability}" if sample.decision else ""
    return textwrap.shorten(sample.prompt, 300) + decision


def _open(folder: Path, name: str | None) -> Image.Image | None:
    if name is None:
        return None
    with Image.open(folder / Path(name).name) as image:
        return image.convert("RGB")


def _in_repository(name: str | None) -> str | None:
    return None if name is None else f"{SAMPLES_FOLDER}/{name}"


__all__ = ["GRID_FILE", "LIST_FILE", "SAMPLES_FOLDER", "answer_prompts", "grid", "read_samples"]
