"""Images and their captions: COCO's captions JSON, or a TSV of captions and files as CC3M has it."""

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Caption:
    """A caption, its own name, and the name of its image's file without folder and suffix."""

    name: str
    text: str
    image: str


def read_captions(path: str | os.PathLike[str]) -> list[Caption]:
    """Read every caption of a file, in the file's order; `.json` is COCO's, anything else a TSV without header.

    A TSV has a caption and a file, or a URL as in CC3M's own files, of which the last part of the path counts.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, or an entry lacks a part; names it.
    """
    place = Path(path)
    captions = _read_coco(place) if place.suffix == ".json" else _read_tsv(place)
    if not captions:
        raise ValueError(f"{place} holds no caption.")
    return captions


def _read_coco(path: Path) -> list[Caption]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {one["id"]: Path(one["file_name"]).stem for one in content["images"]}
        return [
            Caption(str(one["id"]), one["caption"].strip(), files[one["image_id"]]) for one in content["annotations"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not COCO's captions JSON: {error!r}.") from error


def _read_tsv(path: Path) -> list[Caption]:
    captions = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if len(row) != 2 or not row[0].strip():
                raise ValueError(f"{path}, line {number}: {len(row)} columns, expected a caption and a file.")
            captions.append(Caption(str(number), row[0].strip(), Path(row[1].split("?")[0]).stem))
    return captions


__all__ = ["Caption", "read_captions"]
