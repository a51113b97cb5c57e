"""Captions of scenes in several forms, complete or not, and how they are parsed.

The plain form, `a red house on the left and a blue boat at the top at night`, is the one in which the language model
describes the current scene after `picture :`, and the form that image generators are trained on most.
"""

import re

import numpy as np

from .partial_scene import PartialScene, known_attributes, with_attribute
from .phrases import (
    BACKGROUND_PHRASES,
    MEANINGS,
    PHRASES,
    PLACE_PHRASES,
    any_of,
    captured_object,
    join_words,
    object_pattern,
    object_phrase,
    words_of,
)
from .scene import PLACES, Scene

NOTHING = "nothing"
OPENERS = ("there is", "we see")


def describe(known: PartialScene) -> str:
    """The plain form, objects in their order.

    `a red house on the left and a blue boat at the top at night`
    """
    return join_words(_object_phrases(known), PHRASES[known.background])


def tags(known: PartialScene) -> str:
    """What is known as a list of words: `night red house left blue boat top`."""
    words = [known.background]
    for obj in known.objects:
        words += [obj.colour, obj.kind, obj.place]
    return join_words(*(word or "" for word in words))


def layout(scene: Scene, name_places: bool = False) -> str:
    """Background and two words for each place, in a fixed order: `night red house nothing nothing blue boat ...`.

    Each word depends on one object only. So a linear map of image features, as GILL's visual projection is, can imitate
    every word. The words of a caption have no fixed positions.

    Args:
        name_places: Whether the name of each place follows its words, `night red house left nothing nothing right ...`.
            Without them a model has to count, which a small language model does not learn.
    """
    object_at = {obj.place: f"{obj.colour} {obj.kind}" for obj in scene.objects}
    slots = (join_words(object_at.get(place, f"{NOTHING} {NOTHING}"), place if name_places else "") for place in PLACES)
    return join_words(scene.background, *slots)


def caption(known: PartialScene, generator: np.random.Generator, plain_share: float = 0.5) -> str:
    """A caption that says all that is known.

    Args:
        known (`PartialScene`): What the caption says; objects are named in its order.
        plain_share (`float`): Probability of the plain form; else all forms are equally likely.
    """
    if generator.random() < plain_share:
        return describe(known)
    forms = all_forms(known)
    return forms[int(generator.integers(len(forms)))]


def shuffled(known: PartialScene, generator: np.random.Generator) -> PartialScene:
    """The same with its objects in random order."""
    order = generator.permutation(len(known.objects))
    return PartialScene(tuple(known.objects[number] for number in order), known.background)


def leave_out(
    known: PartialScene,
    generator: np.random.Generator,
    share: float,
    names: tuple[str, ...] = ("kind", "colour", "place", "background"),
) -> PartialScene:
    """Leave out each attribute with probability `share`, but never all of them.

    Args:
        names: Names of attributes that may be left out.
    """
    parts = list(known_attributes(known))
    left_out = [part for part in parts if generator.random() < share and part[1] in names]
    if len(left_out) == len(parts):
        left_out.pop(int(generator.integers(len(left_out))))
    for attribute in left_out:
        known = with_attribute(known, attribute, None)
    return known


def parse_caption(text: str) -> PartialScene | None:
    """Parse a caption in any form; objects are in the order in which it names them.

    Returns:
        `None` if the text is no caption, or has two objects of one kind or at one place.
    """
    words = " ".join(words_of(text)).removesuffix(" .")
    for pattern in _PATTERNS:
        match = pattern.fullmatch(words)
        if match is None:
            continue
        objects = tuple(obj for name in ("one", "two") if (obj := captured_object(match, name)) is not None)
        known = PartialScene(objects, MEANINGS[match["background"]])
        return known if _can_be(known) else None
    return None


def all_forms(known: PartialScene) -> list[str]:
    """Every caption that says just this, objects in this order."""
    objects, background = _object_phrases(known), PHRASES[known.background]
    forms = [join_words(opener, objects, background) for opener in ("", *OPENERS)]
    if background:
        forms += [f"{background} , {objects}", f"{background} there is {objects}"]
    if all(obj.place for obj in known.objects):
        first, *others = known.objects
        rest = "".join(f" and {PHRASES[other.place]} {object_phrase(other)}" for other in others)
        forms.append(join_words(f"{PHRASES[first.place]} there is {object_phrase(first)}{rest}", background))
    return forms


def _object_phrases(known: PartialScene) -> str:
    return " and ".join(join_words(object_phrase(obj), PHRASES[obj.place]) for obj in known.objects)


def _can_be(known: PartialScene) -> bool:
    for name in ("kind", "place"):
        values = [getattr(obj, name) for obj in known.objects if getattr(obj, name) is not None]
        if len(set(values)) < len(values):
            return False
    return True


def _patterns() -> tuple[re.Pattern[str], ...]:
    one, two = object_pattern("one"), object_pattern("two")
    one_place, two_place = (any_of(f"{name}_place", PLACE_PHRASES.values()) for name in ("one", "two"))
    background = any_of("background", BACKGROUND_PHRASES.values())
    objects = f"{one}(?: {one_place})?(?: and {two}(?: {two_place})?)?"
    return (
        re.compile(f"(?:(?:{'|'.join(OPENERS)}) )?{objects}(?: {background})?"),
        re.compile(f"{background} (?:,|there is) {objects}"),
        re.compile(f"{one_place} there is {one}(?: and {two_place} {two})?(?: {background})?"),
    )


_PATTERNS = _patterns()
