"""What an image can show: one or two objects, each in a colour and at a place, before a background."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product, zip_longest

import numpy as np

KINDS = ("house", "boat", "tree", "fish", "car", "cat", "mushroom", "balloon")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink")
PLACES = ("left", "right", "top", "bottom")
BACKGROUNDS = ("day", "night", "sea", "snow")
MAX_OBJECTS = 2

Combination = tuple[tuple[str, str], tuple[str, str]]


class SceneError(ValueError):
    """A scene that cannot be drawn; the message says which rule it breaks."""


@dataclass(frozen=True)
class SceneObject:
    """One object: its kind, colour and place, words of `KINDS`, `COLOURS` and `PLACES`.

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
    """One or two objects before a background.

    Things are of different kinds, so that "the boat" always means one object, and at different places. They have no
    order of their own: scenes that look the same are equal, whatever order their objects were given in.

    Raises:
        SceneError: no object, too many, two of one kind, two at one place, or no such background.
    """

    objects: tuple[SceneObject, ...]
    background: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise SceneError(f"A scene has one or two things, not {len(self.objects)}.")
        if len({obj.place for obj in self.objects}) < len(self.objects):
            raise SceneError(f"Two things are at one place: {self.objects}.")
        if len({obj.kind for obj in self.objects}) < len(self.objects):
            raise SceneError(f"Two things are of one kind: {self.objects}.")
        if self.background not in BACKGROUNDS:
            raise SceneError(f"{self.background!r} is none of {', '.join(BACKGROUNDS)}.")
        in_order = tuple(sorted(self.objects, key=lambda obj: PLACES.index(obj.place)))
        object.__setattr__(self, "objects", in_order)

    @property
    def key(self) -> str:
        """Of this scene alone, readable: `night/left-red-house/top-blue-boat`."""
        return "/".join([self.background, *(f"{one.place}-{one.colour}-{one.kind}" for one in self.objects)])

    @property
    def combination(self) -> Combination | None:
        """The two objects without their places, in the one order all scenes agree on; `None` for one object."""
        if len(self.objects) == 1:
            return None
        first, second = sorted(
            ((one.kind, one.colour) for one in self.objects),
            key=lambda pair: (KINDS.index(pair[0]), COLOURS.index(pair[1])),
        )
        return first, second


def scene_of_key(key: str) -> Scene:
    """The scene whose [`Scene.key`] this is.

    Raises:
        SceneError: it is no scene's key.
    """
    background, *objects = key.split("/")
    parts = [obj.split("-") for obj in objects]
    if any(len(part) != 3 for part in parts):
        raise SceneError(f"{key!r} is no scene's key.")
    return Scene(tuple(SceneObject(kind, colour, place) for place, colour, kind in parts), background)


def all_combinations() -> list[Combination]:
    """Every combination of two objects, in one fixed order; 1,008 of them."""
    return [
        ((one, first), (other, second))
        for one, other in combinations(KINDS, 2)
        for first, second in product(COLOURS, repeat=2)
    ]


def all_scenes() -> Iterator[Scene]:
    """Every scene once, in one fixed order: 768 of one object, then 48,384 of two."""
    for background, kind, colour, place in product(BACKGROUNDS, KINDS, COLOURS, PLACES):
        yield Scene((SceneObject(kind, colour, place),), background)
    for background, combination, places in product(BACKGROUNDS, all_combinations(), permutations(PLACES, 2)):
        yield _place(combination, places, background)


@cache
def scene_numbers() -> dict[str, int]:
    """The number of each scene's key in [`all_scenes`], the same on every machine."""
    return {scene.key: number for number, scene in enumerate(all_scenes())}


def edits_of(scene: Scene) -> list[Scene]:
    """Every scene that differs in one kind, one colour, one place or the background: the hardest to tell apart."""
    edited = [Scene(scene.objects, name) for name in BACKGROUNDS if name != scene.background]
    for number, obj in enumerate(scene.objects):
        others = scene.objects[:number] + scene.objects[number + 1 :]
        kinds = [word for word in KINDS if word not in {one.kind for one in scene.objects}]
        places = [word for word in PLACES if word not in {one.place for one in scene.objects}]
        changed = [SceneObject(word, obj.colour, obj.place) for word in kinds]
        changed += [SceneObject(obj.kind, word, obj.place) for word in COLOURS if word != obj.colour]
        changed += [SceneObject(obj.kind, obj.colour, word) for word in places]
        edited += [Scene((one, *others), scene.background) for one in changed]
    return edited


def swaps_of(scene: Scene) -> list[Scene]:
    """The same two objects with their places swapped, and with their colours swapped where these differ."""
    if len(scene.objects) < MAX_OBJECTS:
        return []
    first, second = scene.objects
    places = Scene((replace(first, place=second.place), replace(second, place=first.place)), scene.background)
    colours = Scene((replace(first, colour=second.colour), replace(second, colour=first.colour)), scene.background)
    return [places] if first.colour == second.colour else [places, colours]


def shuffled_edits(scene: Scene, generator: np.random.Generator) -> list[Scene]:
    """Swaps and edits of a scene in random order, one of each sort in turn, so that the first ones are balanced."""
    sorts: dict[str, list[Scene]] = {"swap": swaps_of(scene)}
    for edit in edits_of(scene):
        sorts.setdefault(_changed_attribute(scene, edit), []).append(edit)
    shuffled = [[edits[index] for index in generator.permutation(len(edits))] for edits in sorts.values()]
    return [edit for turn in zip_longest(*shuffled) for edit in turn if edit is not None]


def _changed_attribute(scene: Scene, edit: Scene) -> str:
    if scene.background != edit.background:
        return "background"
    (before,), (after,) = set(scene.objects) - set(edit.objects), set(edit.objects) - set(scene.objects)
    return next(name for name in ("kind", "colour", "place") if getattr(before, name) != getattr(after, name))


def sample_one_object(generator: np.random.Generator) -> Scene:
    """A scene of one object, all equally likely."""
    return Scene(
        (SceneObject(pick(generator, KINDS), pick(generator, COLOURS), pick(generator, PLACES)),),
        pick(generator, BACKGROUNDS),
    )


def sample_two_objects(generator: np.random.Generator, combination: Combination) -> Scene:
    """A scene of these two objects; places and background equally likely."""
    places = generator.permutation(len(PLACES))[:2]
    return _place(combination, (PLACES[places[0]], PLACES[places[1]]), pick(generator, BACKGROUNDS))


def pick(generator: np.random.Generator, words: tuple[str, ...]) -> str:
    """One of the words, equally likely."""
    return words[int(generator.integers(len(words)))]


def _place(combination: Combination, places: tuple[str, ...], background: str) -> Scene:
    return Scene(tuple(SceneObject(*obj, place) for obj, place in zip(combination, places, strict=True)), background)
