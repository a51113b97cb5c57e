"""Stories of five sentences, with the scene after each.

Sentences leave out a part of what their images show, so that images carry information. The last sentence leaves out
nothing: the last scene always follows from the five sentences and the first four images.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

import numpy as np

from .caption_grammar import caption, leave_out, shuffled
from .events import (
    CHANGE_BACKGROUND,
    JOIN,
    LEAVE,
    MOVE,
    SWAP,
    TURN,
    Event,
    ListenerState,
    after,
    event_sentence,
    listener_after_event,
    listener_after_opening,
)
from .partial_scene import PartialObject, PartialScene, fully_known
from .scene import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PLACES,
    Combination,
    Scene,
    combination_of,
    sample_one_object,
    sample_two_objects,
)

SENTENCES = 5
LEAVE_OUT = 0.12
_WEIGHTS = {TURN: 3.0, "turn both": 0.7, MOVE: 2.5, SWAP: 1.5, JOIN: 4.0, LEAVE: 1.2, CHANGE_BACKGROUND: 1.5}


@dataclass(frozen=True)
class SceneStory:
    """A story.

    Attributes:
        sentences: Without full stops.
        scenes: The scene after each sentence.
        events: The event of each sentence but the first.
        told_events: The part of each event that its sentence tells.
        listener: The state after each sentence of a listener who sees no image.
    """

    sentences: tuple[str, ...]
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    told_events: tuple[Event, ...]
    listener: tuple[ListenerState, ...]

    @property
    def text(self) -> str:
        """All sentences, each with its full stop."""
        return self.beginning(len(self.sentences))

    def beginning(self, sentences: int) -> str:
        """The first sentences, each with its full stop."""
        return " ".join(f"{sentence} ." for sentence in self.sentences[:sentences])

    @property
    def complete(self) -> bool:
        """Whether the sentences alone describe the last scene completely."""
        return self.listener[-1].known.complete

    def known(self, number: int, images: bool) -> PartialScene:
        """The known scene after a sentence, objects in the order in which they appeared.

        Args:
            number (`int`): Number of the sentence, from 0.
            images (`bool`): Whether the images of the sentences before it were seen.
        """
        if number == 0 or not images:
            return self.listener[number].known
        order = self.listener[number - 1].known.kinds
        return after(self.told_events[number - 1], fully_known(self.scenes[number - 1], order))


def sample_story(
    generator: np.random.Generator, combinations: Collection[Combination], share: float = LEAVE_OUT
) -> SceneStory:
    """A story that has two objects at least once.

    Args:
        combinations: Combinations of two objects that are allowed in the story; a set is fastest.
        share (`float`): Probability that a sentence leaves out a colour, a place or the background.
    """
    ordered = sorted(combinations)
    while True:
        plan = _sample_plan(generator, frozenset(combinations), ordered)
        if plan is not None:
            return _tell_all(*plan, generator, share)


def possible_events(known: PartialScene, what: str) -> list[Event]:
    """Every event of a kind that changes the scene into another one; `turn both` is a `turn` of two objects.

    Args:
        known (`PartialScene`): A complete scene.
    """
    kinds, two = known.kinds, len(known.objects) == 2
    places = [place for place in PLACES if place not in {obj.place for obj in known.objects}]
    colours = {obj.colour for obj in known.objects}
    events: dict[str, Iterable[Event]] = {
        TURN: (Event(TURN, (obj.kind or "",), word) for obj in known.objects for word in COLOURS if word != obj.colour),
        "turn both": (Event(TURN, kinds, word) for word in COLOURS if two and word not in colours),
        MOVE: (Event(MOVE, (kind,), place) for kind in kinds for place in places),
        SWAP: [Event(SWAP)] if two else [],
        LEAVE: (Event(LEAVE, (kind,)) for kind in kinds if two),
        JOIN: (
            Event(JOIN, obj=PartialObject(kind, colour, place))
            for kind in KINDS
            if not two and kind not in kinds
            for colour in COLOURS
            for place in places
        ),
        CHANGE_BACKGROUND: (Event(CHANGE_BACKGROUND, value=name) for name in BACKGROUNDS if name != known.background),
    }
    return list(events[what])


def _sample_plan(
    generator: np.random.Generator, allowed: frozenset[Combination], ordered: list[Combination]
) -> tuple[PartialScene, list[Event]] | None:
    if generator.random() < 0.5:
        scene = sample_one_object(generator)
    else:
        scene = sample_two_objects(generator, ordered[int(generator.integers(len(ordered)))])
    first = known = shuffled(fully_known(scene), generator)
    events: list[Event] = []
    two_at_least_once = len(scene.objects) == 2
    for _ in range(SENTENCES - 1):
        # Twice in a row, a swap changes nothing, and only the second change of background counts.
        excluded = {events[-1].what} & {CHANGE_BACKGROUND, SWAP} if events else set()
        event = _sample_event(
            generator, known, allowed, {name: _WEIGHTS[name] for name in _WEIGHTS if name not in excluded}
        )
        if event is None:
            return None
        events.append(event)
        known = after(events[-1], known)
        two_at_least_once = two_at_least_once or len(known.objects) == 2
    return (first, events) if two_at_least_once else None


def _sample_event(
    generator: np.random.Generator, known: PartialScene, allowed: frozenset[Combination], weights: dict[str, float]
) -> Event | None:
    while weights:
        names, shares = tuple(weights), np.array(list(weights.values()))
        what = names[int(generator.choice(len(names), p=shares / shares.sum()))]
        events = possible_events(known, what)
        for number in generator.permutation(len(events)):
            combination = combination_of(after(events[number], known).objects)
            if combination is None or combination in allowed:
                return events[number]
        del weights[what]
    return None


def _tell_all(first: PartialScene, events: list[Event], generator: np.random.Generator, share: float) -> SceneStory:
    listener = [listener_after_opening(leave_out(first, generator, share, ("colour", "place", "background")))]
    sentences = [caption(listener[0].known, generator)]
    scenes, told_events = [first.scene()], []
    known = first
    for number, event in enumerate(events):
        last = number == len(events) - 1
        told_events.append(event if last else _less(event, generator, share))
        sentences.append(event_sentence(told_events[-1], listener[-1], generator))
        listener.append(listener_after_event(listener[-1], told_events[-1]))
        known = after(event, known)
        scenes.append(known.scene())
    return SceneStory(tuple(sentences), tuple(scenes), tuple(events), tuple(told_events), tuple(listener))


def _less(event: Event, generator: np.random.Generator, share: float) -> Event:
    if event.obj is not None:
        obj = leave_out(PartialScene((event.obj,)), generator, share, ("colour", "place")).objects[0]
        return replace(event, obj=obj)
    # Two objects that change colour together have no sentence that leaves the colour out.
    if event.value is None or len(event.kinds) == 2 or generator.random() >= share:
        return event
    return replace(event, value=None)
