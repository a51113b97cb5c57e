"""Images and their captions: COCO's captions JSON, or a TSV of captions and images."""

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline_gill.caption_files import read_captions as read_caption_rows
from pipeline_gill.caption_files import read_json


@dataclass(frozen=True)
class Caption:
    """A caption.

    Attributes:
        name (`str`): Its id in COCO, or its number in the TSV.
        text (`str`): The caption, without white space around it.
        image (`str`): Name of its image's file, perhaps with folders; of a URL the last part of its path.
    """

    name: str
    text: str
    image: str


def read_captions(path: str | os.PathLike[str]) -> list[Caption]:
    """Read all captions of a file, in the order of the file; `.json` is COCO's, anything else a TSV.

    A TSV has a caption and the name of a file, or a URL as in CC3M's own files. A header is optional, see
    [`~pipeline_gill.caption_files.read_captions`].

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, or an entry lacks a part; names it.
    """
    captions = _read_coco(path) if Path(path).suffix.lower() == ".json" else _read_tsv(path)
    if not captions:
        raise ValueError(f"{path} holds no caption.")
    return captions


def _read_coco(path: str | os.PathLike[str]) -> list[Caption]:
    content = read_json(path)
    try:
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        return [
            Caption(str(entry["id"]), entry["caption"].strip(), files[entry["image_id"]])
            for entry in content["annotations"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not COCO's captions JSON: {error!r}.") from error


def _read_tsv(path: str | os.PathLike[str]) -> list[Caption]:
    captions = []
    for number, row in enumerate(read_caption_rows(path), start=1):
        if not row.caption.strip() or not row.image:
            raise ValueError(f"{path}, line {row.line}: no caption or no image, expected both.")
        captions.append(Caption(str(number), row.caption.strip(), _image_name(row.image)))
    return captions


def _image_name(image: str) -> str:
    return unquote(Path(urlsplit(image).path).name) if "://" in image else image


__all__ = ["Caption", "read_captions"]
