"""Sentences of stories: events in words, and what a listener who hears them knows.

A listener keeps in mind what is known and the *topic*, the kind of the thing that `it` means: the only thing there is,
or the last one that something happened to. After a sentence on both things, or on a new one, `it` means nothing.
"""

import re
from dataclasses import dataclass

import numpy as np

from .caption_grammar import parse_caption
from .events import CHANGE_BACKGROUND, JOIN, LEAVE, MOVE, SWAP, TURN, Event, after
from .partial_scene import Known
from .phrases import (
    IMAGE_REQUEST,
    STOP,
    any_of,
    captured_thing,
    join_words,
    name_thing,
    place_pattern,
    place_phrase,
    thing_pattern,
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
# How often a thing that can be called `it` is.
_PRONOUN_SHARE = 0.7


@dataclass(frozen=True)
class Heard:
    """What a listener has in mind: what is known, and the kind that `it` means, `None` if it means nothing."""

    known: Known
    topic: str | None


class StoryError(ValueError):
    """A sentence that a listener cannot follow; the message says which."""


def open_story(known: Known) -> Heard:
    """What a listener has in mind after the first sentence."""
    return Heard(known, known.things[0].kind if len(known.things) == 1 else None)


def hear_event(heard: Heard, event: Event) -> Heard:
    """What a listener has in mind after being told of an event.

    Raises:
        ValueError: it cannot happen.
    """
    known = after(event, heard.known)
    if len(known.things) == 1:
        return Heard(known, known.things[0].kind)
    if event.what == CHANGE_BACKGROUND:
        return Heard(known, heard.topic)
    return Heard(known, event.kinds[0] if event.what in (TURN, MOVE) and len(event.kinds) == 1 else None)


def tell(event: Event, heard: Heard, generator: np.random.Generator) -> str:
    """A sentence that says the event, or what is to be told of it, to a listener with this in mind."""
    starter = STARTERS[int(generator.integers(len(STARTERS)))] if generator.random() < 0.6 else ""
    way = int(generator.integers(2))
    return join_words(starter, _say(event, _subject(event, heard, generator), heard, way))


def understand(text: str) -> list[Heard]:
    """What a listener has in mind after each sentence of a story, which begins with a caption.

    What follows `picture :` up to the next full stop is passed over.

    Raises:
        StoryError: a sentence is not of this world's language, or tells what cannot be.
    """
    heard: list[Heard] = []
    for sentence in " ".join(words_of(text)).split(STOP):
        said = sentence.strip()
        if not said or said.startswith(IMAGE_REQUEST):
            continue
        heard.append(_open(said) if not heard else hear(said, heard[-1]))
    return heard


def hear(sentence: str, heard: Heard) -> Heard:
    """What a listener has in mind after one more sentence.

    Raises:
        StoryError: the sentence is not of this world's language, or tells what cannot be.
    """
    event = parse_event(sentence, heard)
    try:
        return hear_event(heard, event)
    except ValueError as error:
        raise StoryError(f"{sentence!r} cannot be: {error}") from error


def parse_event(sentence: str, heard: Heard) -> Event:
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
            _meant(joined["other"].removeprefix("the "), heard, sentence)
        return Event(JOIN, thing=captured_thing(joined, "new"))
    for what, pattern in _EVENTS:
        match = pattern.fullmatch(said)
        if match is not None:
            kinds = _meant(match["subject"].removeprefix("the "), heard, sentence)
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


def _subject(event: Event, heard: Heard, generator: np.random.Generator) -> str:
    if event.what == SWAP or len(event.kinds) == 2:
        return "they"
    if not event.kinds:
        return ""
    if event.kinds[0] == heard.topic and generator.random() < _PRONOUN_SHARE:
        return "it"
    return f"the {event.kinds[0]}"


def _say(event: Event, subject: str, heard: Heard, way: int) -> str:
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
        assert event.thing is not None
        other = heard.known.things[0].kind
        verb = ("joins it" if heard.topic == other else f"joins the {other}", "appears")[way]
        return join_words(name_thing(event.thing), verb, place_phrase(event.thing.place))
    if event.value is None:
        return UNKNOWN_BACKGROUND_SENTENCE
    return BACKGROUND_SENTENCES[event.value][way]


def _open(said: str) -> Heard:
    known = parse_caption(said)
    if known is None or any(thing.kind is None for thing in known.things):
        raise StoryError(f"{said!r} does not open a story: expected a caption that names the kinds of its things.")
    return open_story(known)


def _meant(subject: str, heard: Heard, sentence: str) -> tuple[str, ...]:
    if subject == "they":
        if len(heard.known.things) != 2:
            raise StoryError(f"{sentence!r}: there are not two things.")
        return tuple(thing.kind or "" for thing in heard.known.things)
    kind = heard.topic if subject == "it" else subject
    if kind is None or heard.known.of_kind(kind) is None:
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
                f"{thing_pattern('new')} (?:appears|joins (?P<other>{named}))(?: {place_pattern('new_place')})?"
            ),
        ),
    )


*_EVENTS, (_, _JOINS) = _event_patterns()
