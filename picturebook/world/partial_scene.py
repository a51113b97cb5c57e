"""What words tell about a scene: all of it, or less."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from .scene import Scene, SceneObject


@dataclass(frozen=True)
class PartialObject:
    """What is known of an object; `None` is what is not."""

    kind: str | None = None
    colour: str | None = None
    place: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return None not in (self.kind, self.colour, self.place)

    def fits(self, obj: SceneObject) -> bool:
        """Whether all that is known is true of the object."""
        return all(
            mine is None or mine == its
            for mine, its in ((self.kind, obj.kind), (self.colour, obj.colour), (self.place, obj.place))
        )


@dataclass(frozen=True)
class PartialScene:
    """What is known of a scene: how many objects there are, and of each what was said.

    Unlike a scene's, these objects have an order, that in which they were told of.
    """

    objects: tuple[PartialObject, ...]
    background: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return self.background is not None and all(obj.complete for obj in self.objects)

    def scene(self) -> Scene:
        """The scene, if nothing is left out.

        Raises:
            SceneError: something is left out, or what is known breaks a rule of scenes.
        """
        objects = tuple(SceneObject(one.kind or "", one.colour or "", one.place or "") for one in self.objects)
        return Scene(objects, self.background or "")

    def fits(self, scene: Scene) -> bool:
        """Whether all that is known is true of the scene."""
        return (
            self.background in (None, scene.background)
            and len(self.objects) == len(scene.objects)
            and any(
                all(mine.fits(its) for mine, its in zip(self.objects, order, strict=True))
                for order in permutations(scene.objects)
            )
        )

    def of_kind(self, kind: str | None) -> PartialObject | None:
        """The object of this kind; `None` if none is known to be."""
        return next((obj for obj in self.objects if kind is not None and obj.kind == kind), None)

    def with_object(self, kind: str, **changed: str | None) -> "PartialScene":
        """The same with the object of this kind changed; in the same order."""
        objects = tuple(replace(obj, **changed) if obj.kind == kind else obj for obj in self.objects)
        return replace(self, objects=objects)


def fully_known(scene: Scene, first: tuple[str, ...] = ()) -> PartialScene:
    """Everything about a scene.

    Args:
        first: Kinds of the objects to name first, in this order; others follow in the scene's order.
    """
    objects = [PartialObject(one.kind, one.colour, one.place) for one in scene.objects]
    objects.sort(key=lambda one: first.index(one.kind) if one.kind in first else len(first))
    return PartialScene(tuple(objects), scene.background)


def known_attributes(known: PartialScene) -> Iterator[tuple[int | None, str]]:
    """Every attribute that is known, as the object's number and the attribute's name; `None` for the background."""
    for number, obj in enumerate(known.objects):
        yield from ((number, name) for name in ("kind", "colour", "place") if getattr(obj, name) is not None)
    if known.background is not None:
        yield None, "background"


def without_attribute(known: PartialScene, number: int | None, name: str) -> PartialScene:
    """The same with one of [`known_attributes`] left out."""
    if number is None:
        return replace(known, background=None)
    objects = list(known.objects)
    objects[number] = replace(objects[number], **{name: None})
    return replace(known, objects=tuple(objects))
