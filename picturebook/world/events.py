"""What can happen in a story, and what is so afterwards."""

from dataclasses import dataclass, replace

from .partial_scene import PartialObject, PartialScene

TURN, MOVE, SWAP, JOIN, LEAVE, CHANGE_BACKGROUND = "turn", "move", "swap", "join", "leave", "background"


@dataclass(frozen=True)
class Event:
    """Something that happens.

    What is told of an event may be less than what happened: then `value`, or parts of `obj`, are `None`, and after it
    they are not known.

    Attributes:
        what: `turn` and `move` (of `kinds`, to the colour or place `value`; two objects can turn together), `swap` (of
            places, both objects), `join` (of `obj`), `leave` (of `kinds`), `background` (to `value`).
    """

    what: str
    kinds: tuple[str, ...] = ()
    value: str | None = None
    obj: PartialObject | None = None


def after(event: Event, known: PartialScene) -> PartialScene:
    """What is known when the event has happened, objects in the order in which they first appeared.

    Raises:
        ValueError: the event cannot happen to what is there.
    """
    for kind in event.kinds:
        if known.of_kind(kind) is None:
            raise ValueError(f"There is no {kind} that could {event.what} in {known}.")
    if event.what in (TURN, MOVE):
        for kind in event.kinds:
            known = known.with_object(kind, **{"colour" if event.what == TURN else "place": event.value})
        return known
    if event.what == SWAP:
        if len(known.objects) != 2:
            raise ValueError(f"Only two things can swap places, not those of {known}.")
        one, two = known.objects
        return replace(known, objects=(replace(one, place=two.place), replace(two, place=one.place)))
    if event.what == JOIN:
        if event.obj is None or known.of_kind(event.obj.kind) is not None:
            raise ValueError(f"{event.obj} cannot join {known}.")
        return replace(known, objects=(*known.objects, event.obj))
    if event.what == LEAVE:
        left = tuple(obj for obj in known.objects if obj.kind not in event.kinds)
        if not left:
            raise ValueError(f"Nothing would be left of {known}.")
        return replace(known, objects=left)
    if event.what == CHANGE_BACKGROUND:
        return replace(known, background=event.value)
    raise ValueError(f"{event.what!r} is no event.")
