"""Visual Storytelling's `story-in-sequence` files (https://visionandlanguage.net/VIST)."""

import os
from dataclasses import dataclass

from pipeline_gill.caption_files import read_json


@dataclass(frozen=True)
class Story:
    """A story: as many captions as images, in the order of the annotator."""

    name: str
    captions: tuple[str, ...]
    images: tuple[str, ...]


def read_stories(path: str | os.PathLike[str]) -> list[Story]:
    """Read all stories of a file, in the order of the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, or a story's parts do not fit; names the story.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f"{path} has no list 'annotations'; expected VIST's story-in-sequence JSON.")
    parts: dict[str, list[tuple[int, str, str]]] = {}
    for number, entry in enumerate(content["annotations"]):
        try:
            sentence = entry[0] if isinstance(entry, list) else entry
            place, image = int(sentence["worker_arranged_photo_order"]), str(sentence["photo_flickr_id"])
            parts.setdefault(str(sentence["story_id"]), []).append((place, str(sentence["text"]), image))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, annotation {number} is not in the format of VIST: {error!r}.") from error
    if not parts:
        raise ValueError(f"{path} holds no story.")
    stories = []
    for name, sentences in parts.items():
        ordered = sorted(sentences)
        places = [place for place, _, _ in ordered]
        if places != list(range(places[0], places[0] + len(places))) or len(places) < 2:
            raise ValueError(f"{path}, story {name}: its sentences are numbered {places}, expected 0, 1, 2 and so on.")
        stories.append(Story(name, tuple(text for _, text, _ in ordered), tuple(image for _, _, image in ordered)))
    return stories


__all__ = ["Story", "read_stories"]
