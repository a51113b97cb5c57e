"""Phrases that captions, stories and dialogues share, and the words of a text."""

import re
from collections.abc import Iterable

from .partial_scene import PartialObject
from .scene import COLOURS, KINDS

IMAGE_REQUEST = "picture :"
STOP = "."
UNKNOWN_KIND = "thing"

PLACE_PHRASES: dict[str | None, str] = {
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
}
BACKGROUND_PHRASES: dict[str | None, str] = {
    "day": "by day",
    "night": "at night",
    "sea": "at sea",
    "snow": "in the snow",
}

PHRASES: dict[str | None, str] = {None: "", **PLACE_PHRASES, **BACKGROUND_PHRASES}
MEANINGS = {phrase or None: word for word, phrase in PHRASES.items()}
"""Of places and backgrounds the phrases, and of phrases the places and backgrounds; `None` is what is not known."""

_WORD = re.compile(r"Q:|A:|[A-Za-z]+|[^\sA-Za-z]")


def words_of(text: str) -> list[str]:
    """Words and punctuation marks of a text, a token each, in lower case but for `Q:` and `A:`.

    Case and spaces do not matter: the words of `A red House.` are `a red house .`
    """
    return [word if word in ("Q:", "A:") else word.lower() for word in _WORD.findall(text)]


def join_words(*parts: str) -> str:
    """The parts that are not empty, with a space between."""
    return " ".join(part for part in parts if part)


def object_phrase(obj: PartialObject) -> str:
    """`a red house`; without its place."""
    return join_words("a", obj.colour or "", obj.kind or UNKNOWN_KIND)


def any_of(name: str, words: Iterable[str]) -> str:
    """A pattern that captures one of the words or phrases."""
    return f"(?P<{name}>{'|'.join(words)})"


def object_pattern(name: str) -> str:
    """A pattern for [`object_phrase`] that captures `<name>_colour` and `<name>_kind`."""
    return f"a (?:{any_of(name + '_colour', COLOURS)} )?{any_of(name + '_kind', (*KINDS, UNKNOWN_KIND))}"


def captured_object(match: re.Match[str], name: str) -> PartialObject | None:
    """What [`object_pattern`] and a place captured as `<name>_place` say; `None` if the pattern captured nothing."""
    kind = match[name + "_kind"]
    if kind is None:
        return None
    return PartialObject(
        None if kind == UNKNOWN_KIND else kind, match[name + "_colour"], MEANINGS[match[name + "_place"]]
    )
