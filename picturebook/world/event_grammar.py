"""Sentences of stories: events in words, and what a listener knows after each of them.

The state of a listener is what is known of the scene and the *topic*, the kind of the object that `it` refers to: the
only object, or the last one that something happened to. After a sentence about both objects or a new one there is no
topic.
"""

from dataclasses import dataclass

import numpy as np

from .events import CHANGE_BACKGROUND, JOIN, LEAVE, MOVE, SWAP, TURN, Event, after
from .partial_scene import PartialScene
from .phrases import PHRASES, join_words, object_phrase
from .scene import COLOURS, KINDS, PLACES

STARTERS = ("then", "now", "soon")
BACKGROUND_SENTENCES = {
    "day": ("the sun rises", "day comes"),
    "night": ("night falls", "night comes"),
    "sea": ("the sea rises", "the sea comes"),
    "snow": ("snow falls", "snow comes"),
}
UNKNOWN_BACKGROUND_SENTENCE = "the scene changes"
# How often an object that can be called `it` is.
_PRONOUN_SHARE = 0.7


@dataclass(frozen=True)
class ListenerState:
    """What a listener has in mind: what is known, and the kind that `it` means, `None` if it means nothing."""

    known: PartialScene
    topic: str | None


def listener_after_opening(known: PartialScene) -> ListenerState:
    """What a listener has in mind after the first sentence."""
    return ListenerState(known, known.objects[0].kind if len(known.objects) == 1 else None)


def listener_after_event(listener: ListenerState, event: Event) -> ListenerState:
    """What a listener has in mind after being told of an event.

    Raises:
        ValueError: it cannot happen.
    """
    known = after(event, listener.known)
    if len(known.objects) == 1:
        return ListenerState(known, known.objects[0].kind)
    if event.what == CHANGE_BACKGROUND:
        return ListenerState(known, listener.topic)
    return ListenerState(known, event.kinds[0] if event.what in (TURN, MOVE) and len(event.kinds) == 1 else None)


def event_sentence(event: Event, listener: ListenerState, generator: np.random.Generator) -> str:
    """A sentence that says the event, or what is to be told of it, to a listener with this in mind."""
    starter = STARTERS[int(generator.integers(len(STARTERS)))] if generator.random() < 0.6 else ""
    way = int(generator.integers(2))
    return join_words(starter, _say(event, _subject(event, listener, generator), listener, way))


def all_sentences() -> list[str]:
    """A sentence for each word that sentences are made of: together they hold all of them."""
    colours = [f"it turns {colour} they turn {colour} it becomes they become" for colour in COLOURS]
    places = [f"it moves to the {place} goes" for place in PLACES]
    kinds = [f"the {kind} leaves goes away it changes colour" for kind in KINDS]
    backgrounds = [sentence for ways in BACKGROUND_SENTENCES.values() for sentence in ways]
    return [
        *STARTERS,
        *colours,
        *places,
        *kinds,
        *backgrounds,
        UNKNOWN_BACKGROUND_SENTENCE,
        "they swap places",
        "they change places",
        "a boat joins it",
        "a boat appears",
    ]


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
