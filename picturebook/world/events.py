"""Events of stories, their sentences, and the state of a listener after each of them.

The state of a listener is the known part of the scene and the *topic*, the kind of the object that `it` refers to: the
only object, or the last one that an event happened to. After a sentence about both objects or a new one there is no
topic.
"""

from dataclasses import dataclass, replace

import numpy as np

from .partial_scene import PartialObject, PartialScene
from .phrases import PHRASES, join_words, object_phrase

TURN, MOVE, SWAP, JOIN, LEAVE, CHANGE_BACKGROUND = "turn", "move", "swap", "join", "leave", "background"
STARTERS = ("then", "now", "soon")
BACKGROUND_SENTENCES = {
    "day": ("the sun rises", "day comes"),
    "night": ("night falls", "night comes"),
    "sea": ("the sea rises", "the sea comes"),
    "snow": ("snow falls", "snow comes"),
}
UNKNOWN_BACKGROUND_SENTENCE = "the scene changes"
# Probability that an object is called `it` where that is possible.
_PRONOUN_SHARE = 0.7


@dataclass(frozen=True)
class Event:
    """An event of a story.

    A sentence may tell less than what happens: `value` or parts of `obj` are then `None`, and not known afterwards.

    Attributes:
        what: `turn` and `move` (of `kinds`, to the colour or place `value`; two objects can turn together), `swap` (of
            places, both objects), `join` (of `obj`), `leave` (of `kinds`), `background` (to `value`).
    """

    what: str
    kinds: tuple[str, ...] = ()
    value: str | None = None
    obj: PartialObject | None = None


def after(event: Event, known: PartialScene) -> PartialScene:
    """The known scene after an event, objects in the order in which they first appeared.

    Raises:
        ValueError: the event is impossible in the known scene.
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
            raise ValueError(f"Only two objects can swap places, not those of {known}.")
        first, second = known.objects
        return replace(known, objects=(replace(first, place=second.place), replace(second, place=first.place)))
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


@dataclass(frozen=True)
class ListenerState:
    """What a listener knows of the scene, and the kind that `it` refers to; `None` if it refers to nothing."""

    known: PartialScene
    topic: str | None


def listener_after_opening(known: PartialScene) -> ListenerState:
    """The state of a listener after the first sentence."""
    return ListenerState(known, known.objects[0].kind if len(known.objects) == 1 else None)


def listener_after_event(listener: ListenerState, event: Event) -> ListenerState:
    """The state of a listener after the sentence of an event.

    Raises:
        ValueError: the event is impossible in the known scene.
    """
    known = after(event, listener.known)
    if len(known.objects) == 1:
        return ListenerState(known, known.objects[0].kind)
    if event.what == CHANGE_BACKGROUND:
        return ListenerState(known, listener.topic)
    return ListenerState(known, event.kinds[0] if event.what in (TURN, MOVE) and len(event.kinds) == 1 else None)


def event_sentence(event: Event, listener: ListenerState, generator: np.random.Generator) -> str:
    """A sentence for an event, or for the part of it that is told, to a listener in this state."""
    starter = STARTERS[int(generator.integers(len(STARTERS)))] if generator.random() < 0.6 else ""
    way = int(generator.integers(2))
    return join_words(starter, _say(event, _subject(event, listener, generator), listener, way))


def _subject(event: Event, listener: ListenerState, generator: np.random.Generator) -> str:
    if event.what == SWAP or len(event.kinds) == 2:
        return "they"
    if not event.kinds:
        return ""
    if event.kinds[0] == listener.topic and generator.random() < _PRONOUN_SHARE:
        return "it"
    return f"the {event.kinds[0]}"


def _say(event: Event, subject: str, listener: ListenerState, way: int) -> str:
    if event.what == TURN:
        if event.value is None:
            return f"{subject} changes colour"
        return f"{subject} {('turn', 'become')[way]}{'' if subject == 'they' else 's'} {event.value}"
    if event.what == MOVE:
        return f"{subject} moves" if event.value is None else f"{subject} {('moves', 'goes')[way]} to the {event.value}"
    if event.what == SWAP:
        return f"they {('swap', 'change')[way]} places"
    if event.what == LEAVE:
        return f"{subject} {('leaves', 'goes away')[way]}"
    if event.what == JOIN:
        assert event.obj is not None
        other = listener.known.objects[0].kind
        verb = ("joins it" if listener.topic == other else f"joins the {other}", "appears")[way]
        return join_words(object_phrase(event.obj), verb, PHRASES[event.obj.place])
    if event.value is None:
        return UNKNOWN_BACKGROUND_SENTENCE
    return BACKGROUND_SENTENCES[event.value][way]
