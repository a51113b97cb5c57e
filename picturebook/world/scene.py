"""What an image can show: one or two things, each in a colour and at a place, before a background."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product

import numpy as np

KINDS = ("house", "boat", "tree", "fish", "car", "cat", "mushroom", "balloon")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
PLACES = ("left", "right", "top", "bottom")
BACKGROUNDS = ("day", "night", "sea", "snow")
MOST_THINGS = 2

Combination = tuple[tuple[str, str], tuple[str, str]]


class SceneError(ValueError):
    """A scene that cannot be drawn; the message says which rule it breaks."""


@dataclass(frozen=True)
class Thing:
    """One thing: its kind, colour and place, words of `KINDS`, `COLOURS` and `PLACES`.

    Raises:
        SceneError: a word that is not among these.
    """

    kind: str
    colour: str
    place: str

    def __post_init__(self) -> None:
        for word, allowed in ((self.kind, KINDS), (self.colour, COLOURS), (self.place, PLACES)):
            if word not in allowed:
                raise SceneError(f"{word!r} is none of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Scene:
    """One or two things before a background.

    Things are of different kinds, so that "the boat" always means one thing, and at different places. They have no
    order of their own: scenes that look the same are equal, whatever order their things were given in.

    Raises:
        SceneError: no thing, too many, two of one kind, two at one place, or no such background.
    """

    things: tuple[Thing, ...]
    background: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.things) <= MOST_THINGS:
            raise SceneError(f"A scene has one or two things, not {len(self.things)}.")
        if len({thing.place for thing in self.things}) < len(self.things):
            raise SceneError(f"Two things are at one place: {self.things}.")
        if len({thing.kind for thing in self.things}) < len(self.things):
            raise SceneError(f"Two things are of one kind: {self.things}.")
        if self.background not in BACKGROUNDS:
            raise SceneError(f"{self.background!r} is none of {', '.join(BACKGROUNDS)}.")
        in_order = tuple(sorted(self.things, key=lambda thing: PLACES.index(thing.place)))
        object.__setattr__(self, "things", in_order)

    @property
    def key(self) -> str:
        """Of this scene alone, readable: `night/left-red-house/top-blue-boat`."""
        return "/".join([self.background, *(f"{one.place}-{one.colour}-{one.kind}" for one in self.things)])

    @property
    def combination(self) -> Combination | None:
        """The two things without their places, in the one order all scenes agree on; `None` for one thing."""
        if len(self.things) == 1:
            return None
        first, second = sorted(
            ((one.kind, one.colour) for one in self.things),
            key=lambda pair: (KINDS.index(pair[0]), COLOURS.index(pair[1])),
        )
        return first, second


def scene_of_key(key: str) -> Scene:
    """The scene whose [`Scene.key`] this is.

    Raises:
        SceneError: it is no scene's key.
    """
    background, *things = key.split("/")
    parts = [thing.split("-") for thing in things]
    if any(len(part) != 3 for part in parts):
        raise SceneError(f"{key!r} is no scene's key.")
    return Scene(tuple(Thing(kind, colour, place) for place, colour, kind in parts), background)


def all_combinations() -> list[Combination]:
    """Every combination of two things, in one fixed order; 1,008 of them."""
    return [
        ((one, first), (other, second))
        for one, other in combinations(KINDS, 2)
        for first, second in product(COLOURS, repeat=2)
    ]


def all_scenes() -> Iterator[Scene]:
    """Every scene once, in one fixed order: 768 of one thing, then 48,384 of two."""
    for background, kind, colour, place in product(BACKGROUNDS, KINDS, COLOURS, PLACES):
        yield Scene((Thing(kind, colour, place),), background)
    for background, combination, places in product(BACKGROUNDS, all_combinations(), permutations(PLACES, 2)):
        yield _place(combination, places, background)


@cache
def scene_numbers() -> dict[str, int]:
    """The number of each scene's key in [`all_scenes`], the same on every machine."""
    return {scene.key: number for number, scene in enumerate(all_scenes())}


def edits_of(scene: Scene) -> list[Scene]:
    """Every scene that differs in one kind, one colour, one place or the background: the hardest to tell apart."""
    edited = [Scene(scene.things, name) for name in BACKGROUNDS if name != scene.background]
    for number, thing in enumerate(scene.things):
        others = scene.things[:number] + scene.things[number + 1 :]
        kinds = [word for word in KINDS if word not in {one.kind for one in scene.things}]
        places = [word for word in PLACES if word not in {one.place for one in scene.things}]
        changed = [Thing(word, thing.colour, thing.place) for word in kinds]
        changed += [Thing(thing.kind, word, thing.place) for word in COLOURS if word != thing.colour]
        changed += [Thing(thing.kind, thing.colour, word) for word in places]
        edited += [Scene((one, *others), scene.background) for one in changed]
    return edited


def sample_one(generator: np.random.Generator) -> Scene:
    """A scene of one thing, all equally likely."""
    return Scene(
        (Thing(pick(generator, KINDS), pick(generator, COLOURS), pick(generator, PLACES)),),
        pick(generator, BACKGROUNDS),
    )


def sample_two(generator: np.random.Generator, combination: Combination) -> Scene:
    """A scene of these two things; places and background equally likely."""
    places = generator.permutation(len(PLACES))[:2]
    return _place(combination, (PLACES[places[0]], PLACES[places[1]]), pick(generator, BACKGROUNDS))


def pick(generator: np.random.Generator, words: tuple[str, ...]) -> str:
    """One of the words, equally likely."""
    return words[int(generator.integers(len(words)))]


def _place(combination: Combination, places: tuple[str, ...], background: str) -> Scene:
    return Scene(tuple(Thing(*thing, place) for thing, place in zip(combination, places, strict=True)), background)
