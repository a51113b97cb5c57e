"""Sentences of stories: events in words, and what a listener knows after each of them.

The state of a listener is what is known of the scene and the *topic*, the kind of the object that `it` refers to: the
only object, or the last one that something happened to. After a sentence about both objects or a new one there is no
topic.
"""

import re
from dataclasses import dataclass

import numpy as np

from .caption_grammar import parse_caption
from .events import CHANGE_BACKGROUND, JOIN, LEAVE, MOVE, SWAP, TURN, Event, after
from .partial_scene import PartialScene
from .phrases import (
    IMAGE_REQUEST,
    STOP,
    any_of,
    captured_object,
    join_words,
    object_pattern,
    object_phrase,
    place_pattern,
    place_phrase,
    words_of,
)
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


class StoryError(ValueError):
    """A sentence that a listener cannot follow; the message says which."""


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


def follow_story(text: str) -> list[ListenerState]:
    """What a listener has in mind after each sentence of a story, which begins with a caption.

    What follows `picture :` up to the next full stop is passed over.

    Raises:
        StoryError: a sentence is not of this world's language, or tells what cannot be.
    """
    listener: list[ListenerState] = []
    for sentence in " ".join(words_of(text)).split(STOP):
        said = sentence.strip()
        if not said or said.startswith(IMAGE_REQUEST):
            continue
        listener.append(_open(said) if not listener else listener_after_sentence(said, listener[-1]))
    return listener


def listener_after_sentence(sentence: str, listener: ListenerState) -> ListenerState:
    """What a listener has in mind after one more sentence.

    Raises:
        StoryError: the sentence is not of this world's language, or tells what cannot be.
    """
    event = parse_event(sentence, listener)
    try:
        return listener_after_event(listener, event)
    except ValueError as error:
        raise StoryError(f"{sentence!r} cannot be: {error}") from error


def parse_event(sentence: str, listener: ListenerState) -> Event:
    """The event that a sentence tells of.

    Raises:
        StoryError: it is no such sentence, or `it` or `they` means nothing.
    """
    said = " ".join(words_of(sentence))
    said = re.sub(f"^(?:{'|'.join(STARTERS)}) ", "", said)
    if said == UNKNOWN_BACKGROUND_SENTENCE:
        return Event(CHANGE_BACKGROUND)
    for background, sentences in BACKGROUND_SENTENCES.items():
        if said in sentences:
            return Event(CHANGE_BACKGROUND, value=background)
    joined = _JOINS.fullmatch(said)
    if joined:
        if joined["other"] is not None:
            _meant(joined["other"].removeprefix("the "), listener, sentence)
        return Event(JOIN, obj=captured_object(joined, "new"))
    for what, pattern in _EVENTS:
        match = pattern.fullmatch(said)
        if match is not None:
            kinds = _meant(match["subject"].removeprefix("the "), listener, sentence)
            value = next((match[name] for name in ("colour", "place") if name in pattern.groupindex), None)
            return Event(what, () if what == SWAP else kinds, value)
    raise StoryError(f"{sentence!r} is no sentence that a story can go on with.")


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
        return join_words(object_phrase(event.obj), verb, place_phrase(event.obj.place))
    if event.value is None:
        return UNKNOWN_BACKGROUND_SENTENCE
    return BACKGROUND_SENTENCES[event.value][way]


def _open(said: str) -> ListenerState:
    known = parse_caption(said)
    if known is None or any(obj.kind is None for obj in known.objects):
        raise StoryError(f"{said!r} does not open a story: expected a caption that names the kinds of its things.")
    return listener_after_opening(known)


def _meant(subject: str, listener: ListenerState, sentence: str) -> tuple[str, ...]:
    if subject == "they":
        if len(listener.known.objects) != 2:
            raise StoryError(f"{sentence!r}: there are not two things.")
        return tuple(obj.kind or "" for obj in listener.known.objects)
    kind = listener.topic if subject == "it" else subject
    if kind is None or listener.known.of_kind(kind) is None:
        raise StoryError(f"{sentence!r}: nothing there is {subject!r}.")
    return (kind,)


def _event_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    named = f"it|the (?:{'|'.join(KINDS)})"
    one, two = f"(?P<subject>{named})", "(?P<subject>they)"
    colour, place = any_of("colour", COLOURS), any_of("place", PLACES)
    return (
        (TURN, re.compile(f"{one} (?:(?:turns|becomes) {colour}|changes colour)")),
        (TURN, re.compile(f"{two} (?:turn|become) {colour}")),
        (MOVE, re.compile(f"{one} (?:moves|(?:moves|goes) to the {place})")),
        (SWAP, re.compile(f"{two} (?:swap|change) places")),
        (LEAVE, re.compile(f"{one} (?:leaves|goes away)")),
        (
            JOIN,
            re.compile(
                f"{object_pattern('new')} (?:appears|joins (?P<other>{named}))(?: {place_pattern('new_place')})?"
            ),
        ),
    )


*_EVENTS, (_, _JOINS) = _event_patterns()
