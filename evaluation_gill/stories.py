"""Visual Storytelling's `story-in-sequence` files (https://visionandlanguage.net/VIST)."""

import json
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Story:
    """A story: as many captions as images, in the order that its writer gave them."""

    name: str
    captions: tuple[str, ...]
    images: tuple[str, ...]


def read_stories(path: str | os.PathLike[str]) -> list[Story]:
    """Read every story of a file, in the file's order.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, or a story's parts do not fit; names the story.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON, truncated perhaps: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f"{path} has no list 'annotations'; expected VIST's story-in-sequence JSON.")
    parts: dict[str, list[tuple[int, str, str]]] = {}
    for number, entry in enumerate(content["annotations"]):
        try:
            one = entry[0] if isinstance(entry, list) else entry
            place, image = int(one["worker_arranged_photo_order"]), str(one["photo_flickr_id"])
            parts.setdefault(str(one["story_id"]), []).append((place, str(one["text"]), image))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, annotation {number} is not VIST's: {error!r}.") from error
    if not parts:
        raise ValueError(f"{path} holds no story.")
    stories = []
    for name, sentences in parts.items():
        ordered = sorted(sentences)
        places = [place for place, _, _ in ordered]
        if places != list(range(places[0], places[0] + len(places))) or len(places) < 2:
            raise ValueError(f"{path}, story {name}: its sentences are numbered {places}, expected 0, 1, 2 and so on.")
        stories.append(Story(name, tuple(text for _, text, _ in ordered), tuple(one for _, _, one in ordered)))
    return stories


__all__ = ["Story", "read_stories"]
