"""The part of a scene that words describe."""

from dataclasses import dataclass, replace

from .scene import Scene, SceneObject

Attribute = tuple[int | None, str]
"""The number of an object, `None` for the background, and the name of one of its attributes."""


@dataclass(frozen=True)
class PartialObject:
    """The known attributes of an object; `None` for those that are not known."""

    kind: str | None = None
    colour: str | None = None
    place: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out."""
        return None not in (self.kind, self.colour, self.place)


@dataclass(frozen=True)
class PartialScene:
    """The known part of a scene: the number of its objects, and the known attributes of each.

    Unlike those of a scene, these objects have an order: the one in which they were mentioned.
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
        objects = tuple(SceneObject(obj.kind or "", obj.colour or "", obj.place or "") for obj in self.objects)
        return Scene(objects, self.background or "")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the objects in their order, `""` for one that is not known."""
        return tuple(obj.kind or "" for obj in self.objects)

    def of_kind(self, kind: str | None) -> PartialObject | None:
        """The object of this kind, or `None`."""
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
    objects = [PartialObject(obj.kind, obj.colour, obj.place) for obj in scene.objects]
    objects.sort(key=lambda obj: first.index(obj.kind) if obj.kind in first else len(first))
    return PartialScene(tuple(objects), scene.background)


def known_attributes(known: PartialScene) -> dict[Attribute, str]:
    """Every attribute that is known, with its value."""
    values: dict[Attribute, str | None] = {
        (number, name): getattr(obj, name)
        for number, obj in enumerate(known.objects)
        for name in ("kind", "colour", "place")
    }
    values[None, "background"] = known.background
    return {attribute: value for attribute, value in values.items() if value is not None}


def with_attribute(known: PartialScene, attribute: Attribute, value: str | None) -> PartialScene:
    """The same with another value of an attribute; `None`: it is not known."""
    number, name = attribute
    if number is None:
        return replace(known, background=value)
    objects = list(known.objects)
    objects[number] = replace(objects[number], **{name: value})
    return replace(known, objects=tuple(objects))
