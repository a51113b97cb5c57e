"""Dialogues about a scene: a caption that leaves things out, questions and answers, and a request for the image."""

from dataclasses import dataclass, replace

import numpy as np

from .caption_grammar import NOTHING, caption, leave_out, shuffled
from .partial_scene import Known, all_of, parts_of
from .phrases import IMAGE_REQUEST, place_phrase
from .scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene

REQUEST = f"Q: can we see it ? A: {IMAGE_REQUEST}"
NUMBERS = (NOTHING, "one", "two")
# How much the caption leaves out, how often a question asks what was told already, and how often one is of yes and no.
_LEAVE_OUT, _ASKED_AGAIN, _YES_OR_NO = 0.5, 0.25, 0.3

Part = tuple[int | None, str]


@dataclass(frozen=True)
class Round:
    """A question and its answer, without `Q:` and `A:`; the question ends with its mark."""

    question: str
    answer: str


@dataclass(frozen=True)
class Dialogue:
    """A dialogue whose answers, with the opening caption, tell all of a scene.

    Attributes:
        scene: What it is about.
        opening: A caption that names all kinds and leaves something else out.
        rounds: At least one.
        known: After the opening and after each round.
    """

    scene: Scene
    opening: str
    rounds: tuple[Round, ...]
    known: tuple[Known, ...]

    def text(self, rounds: int | None = None) -> str:
        """Opening, so many rounds (all by default), and the request, which ends with `picture :`."""
        asked = self.rounds if rounds is None else self.rounds[:rounds]
        return " ".join([f"{self.opening} .", *(f"Q: {one.question} A: {one.answer} ." for one in asked), REQUEST])


def sample_dialogue(generator: np.random.Generator, scene: Scene) -> Dialogue:
    """A dialogue about a scene, with a question for each thing that its opening left out, and some more."""
    truth = shuffled(all_of(scene), generator)
    known = truth
    while known == truth:
        known = leave_out(truth, generator, _LEAVE_OUT, ("colour", "place", "background"))
    opening, history, rounds = caption(known, generator), [known], []
    missing = [part for part in parts_of(truth) if part not in set(parts_of(known))]
    for part in (missing[number] for number in generator.permutation(len(missing))):
        if generator.random() < _ASKED_AGAIN:
            rounds.append(_ask_idle(truth, generator))
            history.append(known)
        rounds.append(_ask(truth, part, generator))
        known = _with(known, truth, part)
        history.append(known)
    return Dialogue(scene, opening, tuple(rounds), tuple(history))


def ask_all(known: Known) -> list[Round]:
    """Every open question about what is known, with its answer; answers to what is not known are left out."""
    rounds = [Round("how many things are there ?", NUMBERS[len(known.things)])]
    if known.background is not None:
        rounds.append(Round("what is the scene ?", known.background))
    for thing in known.things:
        if thing.kind is not None and thing.colour is not None:
            rounds.append(Round(f"what colour is the {thing.kind} ?", thing.colour))
        if thing.kind is not None and thing.place is not None:
            rounds.append(Round(f"where is the {thing.kind} ?", place_phrase(thing.place)))
    if all(thing.place is not None and thing.kind is not None for thing in known.things):
        there = {thing.place: f"a {thing.kind}" for thing in known.things}
        rounds += [Round(f"what is {place_phrase(place)} ?", there.get(place, NOTHING)) for place in PLACES]
    return rounds


def all_yes_or_no(truth: Known) -> list[Round]:
    """Every question of yes and no about all of a scene, with its answer."""
    kinds = {thing.kind for thing in truth.things}
    rounds = [Round(f"is there a {kind} ?", _yes(kind in kinds)) for kind in KINDS]
    rounds += [Round(f"is it {name} ?", _yes(name == truth.background)) for name in BACKGROUNDS]
    for thing in truth.things:
        rounds += [Round(f"is the {thing.kind} {colour} ?", _yes(colour == thing.colour)) for colour in COLOURS]
    return rounds


def _ask(truth: Known, part: Part, generator: np.random.Generator) -> Round:
    number, name = part
    if number is None:
        if generator.random() < _YES_OR_NO:
            return Round(f"is it {truth.background} ?", "yes")
        return Round("what is the scene ?", str(truth.background))
    thing = truth.things[number]
    if name == "colour":
        if generator.random() < _YES_OR_NO:
            return Round(f"is the {thing.kind} {thing.colour} ?", "yes")
        return Round(f"what colour is the {thing.kind} ?", str(thing.colour))
    if generator.random() < _YES_OR_NO:
        return Round(f"what is {place_phrase(thing.place)} ?", f"a {thing.kind}")
    return Round(f"where is the {thing.kind} ?", place_phrase(thing.place))


def _ask_idle(truth: Known, generator: np.random.Generator) -> Round:
    """A question whose answer adds nothing to what dialogues keep track of: a no, a number, a yes to what was told."""
    idle = [one for one in all_yes_or_no(truth) if one.answer == "no" or one.question.startswith("is there")]
    idle += [one for one in ask_all(truth) if one.answer in NUMBERS]
    return idle[int(generator.integers(len(idle)))]


def _with(known: Known, truth: Known, part: Part) -> Known:
    number, name = part
    if number is None:
        return replace(known, background=truth.background)
    things = list(known.things)
    things[number] = replace(things[number], **{name: getattr(truth.things[number], name)})
    return replace(known, things=tuple(things))


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
