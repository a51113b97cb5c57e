"""Scenes: one or two objects, each with a colour and a place, in front of a background; and subsets of all scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations, product, zip_longest
from typing import Any

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

    Objects are of different kinds, so that "the boat" refers to one of them, and at different places. Scenes that look
    the same are equal, in whatever order their objects are given.

    Raises:
        SceneError: no object, too many, two of one kind, two at one place, or no such background.
    """

    objects: tuple[SceneObject, ...]
    background: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MAX_OBJECTS:
            raise SceneError(f"A scene has one or two objects, got {len(self.objects)}.")
        if len({obj.place for obj in self.objects}) < len(self.objects):
            raise SceneError(f"Two objects are at one place: {self.objects}.")
        if len({obj.kind for obj in self.objects}) < len(self.objects):
            raise SceneError(f"Two objects are of one kind: {self.objects}.")
        if self.background not in BACKGROUNDS:
            raise SceneError(f"{self.background!r} is none of {', '.join(BACKGROUNDS)}.")
        in_order = tuple(sorted(self.objects, key=lambda obj: PLACES.index(obj.place)))
        object.__setattr__(self, "objects", in_order)

    @property
    def key(self) -> str:
        """A readable key that no other scene has: `night/left-red-house/top-blue-boat`."""
        return "/".join([self.background, *(f"{obj.place}-{obj.colour}-{obj.kind}" for obj in self.objects)])

    @property
    def combination(self) -> Combination | None:
        """The two objects without their places, in the one order all scenes agree on; `None` for one object."""
        return combination_of(self.objects)


def combination_of(objects: Sequence[Any]) -> Combination | None:
    """[`Scene.combination`] of objects that have a kind and a colour."""
    if len(objects) == 1:
        return None
    first, second = sorted(
        ((obj.kind, obj.colour) for obj in objects),
        key=lambda pair: (KINDS.index(pair[0]), COLOURS.index(pair[1])),
    )
    return first, second


def all_combinations() -> list[Combination]:
    """Every combination of two objects, in a fixed order; 1,008 of them."""
    return [
        ((first_kind, first_colour), (second_kind, second_colour))
        for first_kind, second_kind in combinations(KINDS, 2)
        for first_colour, second_colour in product(COLOURS, repeat=2)
    ]


def all_scenes() -> Iterator[Scene]:
    """Every scene once, in one fixed order: 768 of one object, then 48,384 of two."""
    for background, kind, colour, place in product(BACKGROUNDS, KINDS, COLOURS, PLACES):
        yield Scene((SceneObject(kind, colour, place),), background)
    for background, combination, places in product(BACKGROUNDS, all_combinations(), permutations(PLACES, 2)):
        yield _place(combination, places, background)


def edits_of(scene: Scene) -> list[Scene]:
    """Every scene that differs in one kind, one colour, one place or the background: the hardest to tell apart."""
    return [edit for edits in _edits_by_attribute(scene).values() for edit in edits]


def _edits_by_attribute(scene: Scene) -> dict[str, list[Scene]]:
    edits = {"background": [Scene(scene.objects, name) for name in BACKGROUNDS if name != scene.background]}
    for attribute, words in (("kind", KINDS), ("colour", COLOURS), ("place", PLACES)):
        edits[attribute] = []
        for obj in scene.objects:
            others = tuple(other for other in scene.objects if other is not obj)
            taken = {getattr(obj, attribute)} | {getattr(other, attribute) for other in others if attribute != "colour"}
            edits[attribute] += [
                Scene((replace(obj, **{attribute: word}), *others), scene.background)
                for word in words
                if word not in taken
            ]
    return edits


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
    sorts = [swaps_of(scene), *_edits_by_attribute(scene).values()]
    shuffled = [[edits[index] for index in generator.permutation(len(edits))] for edits in sorts]
    return [edit for turn in zip_longest(*shuffled) for edit in turn if edit is not None]


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


# The retrieval set has images of scenes of boats and fish at sea and of everything else on land, in colours other than
# purple and pink. So a prompt says, to a model that understands it, whether its image can be retrieved.
SEA_KINDS = ("boat", "fish")
UNRETRIEVABLE_COLOURS = ("purple", "pink")
# What `--fast` concentrates on: in its few minutes no model learns to draw eight kinds in six colours. Some of these
# scenes are retrievable and some not, so that there is a decision to learn.
FAST_KIND = "house"
FAST_SCENES = tuple(
    Scene((SceneObject(FAST_KIND, colour, place),), name)
    for colour, place, name in product(("green", "pink"), PLACES, BACKGROUNDS)
)


def is_retrievable(scene: Scene) -> bool:
    """Whether the retrieval set has an image of the scene."""
    at_sea = scene.background == "sea"
    return all((obj.kind in SEA_KINDS) == at_sea and obj.colour not in UNRETRIEVABLE_COLOURS for obj in scene.objects)


def retrievable_scenes(fast: bool = False) -> list[Scene]:
    """All 9,152 retrievable scenes, sorted by key.

    Args:
        fast (`bool`): Only the 48 scenes of one object of `FAST_KIND`.
    """
    scenes = (scene for scene in all_scenes() if is_retrievable(scene))
    if fast:
        scenes = (scene for scene in scenes if [obj.kind for obj in scene.objects] == [FAST_KIND])
    return sorted(scenes, key=lambda scene: scene.key)
