"""Captions: what a scene shows in words, in several ways, with some of it left out; and what a caption says.

The plain form, `a red house on the left and a blue boat at the top at night`, is the one in which the present state is
described after `picture :`. Generators must know it best.
"""

import re

import numpy as np

from .partial_scene import Known, parts_of, without
from .phrases import (
    background_pattern,
    background_phrase,
    captured_thing,
    join_words,
    meaning_of,
    name_thing,
    place_pattern,
    place_phrase,
    thing_pattern,
    words_of,
)
from .scene import PLACES, Scene

NOTHING = "nothing"
OPENERS = ("there is", "we see")


def describe(known: Known) -> str:
    """The plain form, things in the order in which they were told of.

    `a red house on the left and a blue boat at the top at night`
    """
    return join_words(_things(known), background_phrase(known.background))


def tags(known: Known) -> str:
    """What is known as bare words, shorter than any sentence: `night red house left blue boat top`."""
    words = [known.background]
    for thing in known.things:
        words += [thing.colour, thing.kind, thing.place]
    return join_words(*(word or "" for word in words))


def layout(scene: Scene, name_places: bool = False) -> str:
    """What is where, two words a place, always in the same order: `night red house nothing nothing blue boat ...`.

    Each word of it depends on one thing alone that can be seen. So a linear map from what is seen, which is what GILL
    reads images by, can come to imitate every word; of a caption's words, none is at a fixed place.

    Args:
        name_places: Whether each place follows what is there, `night red house left nothing nothing right ...`. A
            reader need not count then, and a small language model does not learn to.
    """
    there = {thing.place: f"{thing.colour} {thing.kind}" for thing in scene.things}
    slots = (join_words(there.get(place, f"{NOTHING} {NOTHING}"), place if name_places else "") for place in PLACES)
    return join_words(scene.background, *slots)


def caption(known: Known, generator: np.random.Generator, plain: float = 0.5) -> str:
    """A caption that says all that is known.

    Args:
        known (`Known`): What to say.
        plain (`float`): How often the form is the plain one; else any that can say it. The things' order is theirs.
    """
    if generator.random() < plain:
        return describe(known)
    forms = _forms_of(known)
    return forms[int(generator.integers(len(forms)))]


def shuffled(known: Known, generator: np.random.Generator) -> Known:
    """The same, its things in any order."""
    order = generator.permutation(len(known.things))
    return Known(tuple(known.things[number] for number in order), known.background)


def leave_out(
    known: Known,
    generator: np.random.Generator,
    share: float,
    names: tuple[str, ...] = ("kind", "colour", "place", "background"),
) -> Known:
    """Less than is known: each attribute is left out with probability `share`, but never all of them.

    Args:
        names: What may be left out.
    """
    parts = list(parts_of(known))
    gone = [part for part in parts if generator.random() < share and part[1] in names]
    if len(gone) == len(parts):
        gone.pop(int(generator.integers(len(gone))))
    for number, name in gone:
        known = without(known, number, name)
    return known


def parse_caption(text: str) -> Known | None:
    """What a caption in any form says, its things in the order in which it names them.

    Returns:
        `None` if the text is no caption, or one of what cannot be: two things of a kind, or at a place.
    """
    said = " ".join(words_of(text)).removesuffix(" .")
    for pattern in _PATTERNS:
        match = pattern.fullmatch(said)
        if match is None:
            continue
        things = tuple(thing for name in ("one", "two") if (thing := captured_thing(match, name)) is not None)
        known = Known(things, meaning_of(match["background"]))
        return known if _can_be(known) else None
    return None


def all_forms(known: Known) -> tuple[str, ...]:
    """Every caption that says just this, things in this order."""
    return tuple(_forms_of(known))


def _forms_of(known: Known) -> list[str]:
    things, background = _things(known), background_phrase(known.background)
    forms = [join_words(opener, things, background) for opener in ("", *OPENERS)]
    if background:
        forms += [f"{background} , {things}", f"{background} there is {things}"]
    if all(thing.place for thing in known.things):
        first, *others = known.things
        rest = "".join(f" and {place_phrase(one.place)} {name_thing(one)}" for one in others)
        forms.append(join_words(f"{place_phrase(first.place)} there is {name_thing(first)}{rest}", background))
    return forms


def _things(known: Known) -> str:
    return " and ".join(join_words(name_thing(one), place_phrase(one.place)) for one in known.things)


def _can_be(known: Known) -> bool:
    for name in ("kind", "place"):
        told = [getattr(thing, name) for thing in known.things if getattr(thing, name) is not None]
        if len(set(told)) < len(told):
            return False
    return True


def _patterns() -> tuple[re.Pattern[str], ...]:
    def at(name: str) -> str:
        return f"{thing_pattern(name)}(?: {place_pattern(name + '_place')})?"

    def placed(name: str, between: str) -> str:
        return f"{place_pattern(name + '_place')} {between}{thing_pattern(name)}"

    things = f"{at('one')}(?: and {at('two')})?"
    background = background_pattern("background")
    return (
        re.compile(f"(?:(?:{'|'.join(OPENERS)}) )?{things}(?: {background})?"),
        re.compile(f"{background} (?:,|there is) {things}"),
        re.compile(f"{placed('one', 'there is ')}(?: and {placed('two', '')})?(?: {background})?"),
    )


_PATTERNS = _patterns()
