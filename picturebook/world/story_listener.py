"""A listener who follows stories, whoever wrote them, by their words alone."""

import re
from itertools import permutations

from .caption_grammar import parse_caption
from .events import (
    BACKGROUND_SENTENCES,
    CHANGE_BACKGROUND,
    JOIN,
    LEAVE,
    MOVE,
    STARTERS,
    SWAP,
    TURN,
    UNKNOWN_BACKGROUND_SENTENCE,
    Event,
    ListenerState,
    listener_after_event,
    listener_after_opening,
)
from .partial_scene import PartialObject, PartialScene
from .phrases import (
    IMAGE_REQUEST,
    PLACE_PHRASES,
    STOP,
    any_of,
    captured_object,
    object_pattern,
    words_of,
)
from .scene import COLOURS, KINDS, PLACES, Scene, SceneObject


class StoryError(ValueError):
    """A sentence that a listener cannot follow; the message says which."""


def follow_story(text: str) -> list[ListenerState]:
    """What a listener has in mind after each sentence of a story, which begins with a caption.

    What follows `picture :` up to the next full stop is passed over.

    Raises:
        StoryError: a sentence is not of this world's language, or tells what cannot be.
    """
    listener: list[ListenerState] = []
    for said in sentences_of(text):
        listener.append(hear(said, listener[-1] if listener else None))
    return listener


def sentences_of(text: str) -> list[str]:
    """Sentences of a story, without their full stops; a request and what follows it are none."""
    sentences = (sentence.strip() for sentence in " ".join(words_of(text)).split(STOP))
    return [said for said in sentences if said and not said.startswith(IMAGE_REQUEST)]


def hear(sentence: str, listener: ListenerState | None) -> ListenerState:
    """What a listener has in mind after the first sentence of a story, or after one more.

    Raises:
        StoryError: the sentence is not of this world's language, or tells what cannot be.
    """
    return _open(sentence) if listener is None else listener_after_sentence(sentence, listener)


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
                f"{object_pattern('new')} (?:appears|joins (?P<other>{named}))"
                f"(?: {any_of('new_place', PLACE_PHRASES.values())})?"
            ),
        ),
    )


*_EVENTS, (_, _JOINS) = _event_patterns()


def fits(known: PartialScene, scene: Scene) -> bool:
    """Whether all that is known is true of the scene."""

    def object_fits(mine: PartialObject, its: SceneObject) -> bool:
        return all(getattr(mine, name) in (None, getattr(its, name)) for name in ("kind", "colour", "place"))

    return (
        known.background in (None, scene.background)
        and len(known.objects) == len(scene.objects)
        and any(
            all(object_fits(mine, its) for mine, its in zip(known.objects, order, strict=True))
            for order in permutations(scene.objects)
        )
    )
