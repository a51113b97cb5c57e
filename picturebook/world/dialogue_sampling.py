"""Dialogues about a scene: a caption that leaves objects out, questions and answers, and a request for the image."""

from dataclasses import dataclass

import numpy as np

from .caption_grammar import NOTHING, caption, leave_out, shuffled
from .partial_scene import Attribute, PartialScene, fully_known, known_attributes, with_attribute
from .phrases import IMAGE_REQUEST, PHRASES
from .scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene

REQUEST = f"Q: can we see it ? A: {IMAGE_REQUEST}"
_YES = {True: "yes", False: "no"}
NUMBERS = (NOTHING, "one", "two")
# Shares of attributes that the caption leaves out, of questions that add nothing, and of yes-or-no questions.
_LEAVE_OUT, _ASKED_AGAIN, _YES_OR_NO = 0.5, 0.25, 0.3


@dataclass(frozen=True)
class QuestionAnswer:
    """A question and its answer, without `Q:` and `A:`; the question ends with its mark."""

    question: str
    answer: str


@dataclass(frozen=True)
class SceneDialogue:
    """A dialogue whose caption and answers together describe a scene completely.

    Attributes:
        scene: The scene.
        opening: A caption that names all kinds and leaves something else out.
        rounds: At least one question with its answer.
        known: The known scene after the opening and after each round.
    """

    scene: Scene
    opening: str
    rounds: tuple[QuestionAnswer, ...]
    known: tuple[PartialScene, ...]

    def text(self, rounds: int | None = None) -> str:
        """Opening, the first `rounds` questions with answers (by default all), and the request that ends the text."""
        asked = self.rounds if rounds is None else self.rounds[:rounds]
        turns = [f"Q: {turn.question} A: {turn.answer} ." for turn in asked]
        return " ".join([f"{self.opening} .", *turns, REQUEST])


def sample_dialogue(generator: np.random.Generator, scene: Scene) -> SceneDialogue:
    """A dialogue about a scene, with a question for each attribute that the opening leaves out, and some more."""
    truth = shuffled(fully_known(scene), generator)
    known = truth
    while known == truth:
        known = leave_out(truth, generator, _LEAVE_OUT, ("colour", "place", "background"))
    opening, history, rounds = caption(known, generator), [known], []
    values = known_attributes(truth)
    missing = [part for part in values if part not in known_attributes(known)]
    for part in (missing[number] for number in generator.permutation(len(missing))):
        if generator.random() < _ASKED_AGAIN:
            rounds.append(_ask_idle(truth, generator))
            history.append(known)
        rounds.append(_ask(truth, part, generator))
        known = with_attribute(known, part, values[part])
        history.append(known)
    return SceneDialogue(scene, opening, tuple(rounds), tuple(history))


def ask_all(known: PartialScene) -> list[QuestionAnswer]:
    """Every open question whose answer is known, with its answer."""
    rounds = [QuestionAnswer("how many things are there ?", NUMBERS[len(known.objects)])]
    if known.background is not None:
        rounds.append(QuestionAnswer("what is the scene ?", known.background))
    for obj in known.objects:
        if obj.kind is not None and obj.colour is not None:
            rounds.append(QuestionAnswer(f"what colour is the {obj.kind} ?", obj.colour))
        if obj.kind is not None and obj.place is not None:
            rounds.append(QuestionAnswer(f"where is the {obj.kind} ?", PHRASES[obj.place]))
    if all(obj.place is not None and obj.kind is not None for obj in known.objects):
        kind_at = {obj.place: f"a {obj.kind}" for obj in known.objects}
        rounds += [QuestionAnswer(f"what is {PHRASES[place]} ?", kind_at.get(place, NOTHING)) for place in PLACES]
    return rounds


def all_yes_or_no(truth: PartialScene) -> list[QuestionAnswer]:
    """Every yes-or-no question about a complete scene, with its answer."""
    kinds = {obj.kind for obj in truth.objects}
    rounds = [QuestionAnswer(f"is there a {kind} ?", _YES[kind in kinds]) for kind in KINDS]
    rounds += [QuestionAnswer(f"is it {name} ?", _YES[name == truth.background]) for name in BACKGROUNDS]
    for obj in truth.objects:
        rounds += [QuestionAnswer(f"is the {obj.kind} {colour} ?", _YES[colour == obj.colour]) for colour in COLOURS]
    return rounds


def _ask(truth: PartialScene, part: Attribute, generator: np.random.Generator) -> QuestionAnswer:
    number, name = part
    if number is None:
        return _one_of(generator, f"is it {truth.background} ?", "yes", "what is the scene ?", str(truth.background))
    obj = truth.objects[number]
    if name == "colour":
        question = f"what colour is the {obj.kind} ?"
        return _one_of(generator, f"is the {obj.kind} {obj.colour} ?", "yes", question, str(obj.colour))
    place = PHRASES[obj.place]
    return _one_of(generator, f"what is {place} ?", f"a {obj.kind}", f"where is the {obj.kind} ?", place)


def _one_of(generator: np.random.Generator, *words: str) -> QuestionAnswer:
    """The second question with its answer, or, with probability `_YES_OR_NO`, the first."""
    return QuestionAnswer(*(words[:2] if generator.random() < _YES_OR_NO else words[2:]))


def _ask_idle(truth: PartialScene, generator: np.random.Generator) -> QuestionAnswer:
    """A question whose answer adds nothing to the known scene: a no, a number, or a yes to something known."""
    idle = [turn for turn in all_yes_or_no(truth) if turn.answer == "no" or turn.question.startswith("is there")]
    idle += [turn for turn in ask_all(truth) if turn.answer in NUMBERS]
    return idle[int(generator.integers(len(idle)))]
