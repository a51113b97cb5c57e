"""Sample answers for a card: images of each, and a grid of all.

samples/samples.json   for each sample its prompt, decision, probability, and the files of its images
samples/grid.png       a row for each: prompt, retrieved, generated, decision
"""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline_gill.pipeline_repository_gill import SAMPLES_FOLDER

from .facts import Sample

LIST_FILE = "samples.json"
GRID_FILE = "grid.png"
_CELL, _TEXT, _GAP = 192, 240, 8


def answer_prompts(
    pipeline: Any, prompts: Sequence[str], folder: Path, *, seed: int = 42, **drawing: Any
) -> list[Sample]:
    """Answer prompts both ways where there is a retrieval set, and write the images.

    Args:
        pipeline (`GillPipeline`), prompts (`Sequence[str]`)
        folder (`Path`): Where `samples.json`, the images and the grid go.
        drawing: As in diffusers: `num_inference_steps`, `height` and so on.
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
    (folder / LIST_FILE).write_text(json.dumps([asdict(one) for one in samples], indent=1) + "\n", encoding="utf-8")
    grid(samples, folder).save(folder / GRID_FILE)
    return read_samples(folder)


def read_samples(folder: Path) -> list[Sample]:
    """Samples of a folder, their images named as in the repository.

    Raises:
        OSError: there is no `samples.json`, or an image that it names. ValueError: it is something else.
    """
    try:
        samples = [Sample(**one) for one in json.loads((folder / LIST_FILE).read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / LIST_FILE} is no list of samples: {error}") from error
    for sample in samples:
        for name in (sample.retrieved, sample.generated):
            if name is not None and not (folder / name).is_file():
                raise OSError(f"{folder / LIST_FILE} names the image {name}, which is not there.")
    return [
        Sample(one.prompt, one.decision, one.probability, _in_repository(one.retrieved), _in_repository(one.generated))
        for one in samples
    ]


def grid(samples: Sequence[Sample], folder: Path) -> Image.Image:
    """An image with a row for each sample, whose files lie in `folder`."""
    width = _TEXT + 2 * (_CELL + _GAP) + 2 * _GAP
    header = 24
    sheet = Image.new("RGB", (width, header + len(samples) * (_CELL + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    columns = (_GAP, _TEXT + _GAP, _TEXT + _CELL + 2 * _GAP)
    for x, title in zip(columns, ("prompt and decision", "retrieved", "generated"), strict=True):
        draw.text((x, 6), title, fill="dimgrey", font=font)
    for row, sample in enumerate(samples):
        y = header + row * (_CELL + _GAP)
        told = textwrap.wrap(sample.prompt, 34)[:9]
        if sample.decision:
            told += ["", f"-> {sample.decision}" + (f" ({sample.probability:.2f})" if sample.probability else "")]
        draw.multiline_text((columns[0], y + 4), "\n".join(told), fill="black", font=font)
        for x, source, name in (
            (columns[1], "retrieve", sample.retrieved),
            (columns[2], "generate", sample.generated),
        ):
            if name is None:
                draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline="lightgrey")
                draw.text((x + _GAP, y + _GAP), "none", fill="dimgrey", font=font)
                continue
            with Image.open(folder / Path(name).name) as image:
                fitted = _fit(image.convert("RGB"))
            sheet.paste(fitted, (x + (_CELL - fitted.width) // 2, y + (_CELL - fitted.height) // 2))
            if sample.decision == source:
                draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), outline="seagreen", width=4)
    return sheet


def _fit(image: Image.Image) -> Image.Image:
    """As large as a cell holds; small images are enlarged without blurring their pixels."""
    scale = _CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)


def _in_repository(name: str | None) -> str | None:
    return None if name is None else f"{SAMPLES_FOLDER}/{name}"


__all__ = ["GRID_FILE", "LIST_FILE", "SAMPLES_FOLDER", "answer_prompts", "grid", "read_samples"]
