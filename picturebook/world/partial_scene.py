"""What words tell about a scene: all of it, or less."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from .scene import Scene, Thing


@dataclass(frozen=True)
class KnownThing:
    """What is known of a thing; `None` is what is not."""

    kind: str | None = None
    colour: str | None = None
    place: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return None not in (self.kind, self.colour, self.place)

    def fits(self, thing: Thing) -> bool:
        """Whether all that is known is true of the thing."""
        return all(
            mine is None or mine == its
            for mine, its in ((self.kind, thing.kind), (self.colour, thing.colour), (self.place, thing.place))
        )


@dataclass(frozen=True)
class Known:
    """What is known of a scene: how many things there are, always, and of each what was told.

    Unlike a scene's, these things have an order, that in which they were told of.
    """

    things: tuple[KnownThing, ...]
    background: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return self.background is not None and all(thing.complete for thing in self.things)

    def scene(self) -> Scene:
        """The scene, if nothing is left out.

        Raises:
            SceneError: something is left out, or what is known breaks a rule of scenes.
        """
        things = tuple(Thing(one.kind or "", one.colour or "", one.place or "") for one in self.things)
        return Scene(things, self.background or "")

    def fits(self, scene: Scene) -> bool:
        """Whether all that is known is true of the scene."""
        return (
            self.background in (None, scene.background)
            and len(self.things) == len(scene.things)
            and any(
                all(mine.fits(its) for mine, its in zip(self.things, order, strict=True))
                for order in permutations(scene.things)
            )
        )

    def of_kind(self, kind: str | None) -> KnownThing | None:
        """The thing of this kind; `None` if none is known to be."""
        return next((thing for thing in self.things if kind is not None and thing.kind == kind), None)

    def with_thing(self, kind: str, **changed: str | None) -> "Known":
        """The same with the thing of this kind changed; in the same order."""
        things = tuple(replace(thing, **changed) if thing.kind == kind else thing for thing in self.things)
        return replace(self, things=things)


def all_of(scene: Scene, first: tuple[str, ...] = ()) -> Known:
    """Everything about a scene.

    Args:
        first: Kinds of the things to name first, in this order; others follow in the scene's order.
    """
    things = [KnownThing(one.kind, one.colour, one.place) for one in scene.things]
    things.sort(key=lambda one: first.index(one.kind) if one.kind in first else len(first))
    return Known(tuple(things), scene.background)


def parts_of(known: Known) -> Iterator[tuple[int | None, str]]:
    """Every attribute that is known, as the thing's number and the attribute's name; `None` for the background."""
    for number, thing in enumerate(known.things):
        yield from ((number, name) for name in ("kind", "colour", "place") if getattr(thing, name) is not None)
    if known.background is not None:
        yield None, "background"


def without(known: Known, number: int | None, name: str) -> Known:
    """The same with one of [`parts_of`] left out."""
    if number is None:
        return replace(known, background=None)
    things = list(known.things)
    things[number] = replace(things[number], **{name: None})
    return replace(known, things=tuple(things))
