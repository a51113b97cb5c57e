"""Scenes that differ in one thing: the hardest to tell apart, for what learns by comparison."""

from dataclasses import replace
from itertools import zip_longest

import numpy as np

from .scene import MOST_THINGS, Scene, edits_of
from .splits import SHARE_OF_ONE_THING, scene_in, split_of


def scenes_with_edits(
    split: str,
    number: int,
    alike: int,
    generator: np.random.Generator,
    one_thing: float = SHARE_OF_ONE_THING,
    familiar: float = 0.0,
) -> list[Scene]:
    """So many scenes of a split, each followed by edits of it that make `alike` of them, or all it has.

    Args:
        familiar (`float`): How many scenes are familiar, see [`familiar`], whatever their edits are.
    """
    scenes: list[Scene] = []
    for _ in range(number):
        scene = scene_in(split, generator, one_thing, familiar)
        edits = [one for one in every_edit(scene, generator) if split_of(one) in (None, split)]
        scenes += [scene, *edits[: alike - 1]]
    return scenes


def every_edit(scene: Scene, generator: np.random.Generator) -> list[Scene]:
    """What differs in one thing, sorts of edits in turn: places and colours as often as kinds, exchanges first."""
    sorts: dict[str, list[Scene]] = {"exchange": exchanges_of(scene)}
    for edit in edits_of(scene):
        sorts.setdefault(_sort_of(scene, edit), []).append(edit)
    shuffled = [[some[at] for at in generator.permutation(len(some))] for some in sorts.values()]
    return [one for some in zip_longest(*shuffled) for one in some if one is not None]


def exchanges_of(scene: Scene) -> list[Scene]:
    """The same two things, their places exchanged, or their colours, where that changes anything."""
    if len(scene.things) < MOST_THINGS:
        return []
    one, other = scene.things
    places = Scene((replace(one, place=other.place), replace(other, place=one.place)), scene.background)
    colours = Scene((replace(one, colour=other.colour), replace(other, colour=one.colour)), scene.background)
    return [places] if one.colour == other.colour else [places, colours]


def _sort_of(scene: Scene, edit: Scene) -> str:
    if scene.background != edit.background:
        return "background"
    (before,), (after,) = set(scene.things) - set(edit.things), set(edit.things) - set(scene.things)
    return next(name for name in ("kind", "colour", "place") if getattr(before, name) != getattr(after, name))
