"""Text for the language model: captions, stories, dialogues, with descriptions of the present state and questions.

A document is one line of words. Images are not in it; where a story's images would be stands, in some documents,
what they show, between brackets: as words place by place, as bare words or as a caption. So the model learns to use
what it is told in these places, and the adapters have words whose effect images can come to imitate.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .caption_grammar import NOTHING, caption, describe, layout, leave_out, shuffled, tags
from .dialogue_sampling import Dialogue, Round, ask_all
from .partial_scene import Known, all_of
from .phrases import IMAGE_REQUEST
from .scene import MOST_THINGS, Scene
from .scene_subsets import is_ordinary
from .splits import dialogue_in, scene_in, story_in, stream
from .story_sampling import LEAVE_OUT, Story


@dataclass(frozen=True)
class Mixture:
    """Which documents are drawn.

    Attributes:
        shares: How often each kind is.
        as_read: Whether all that stands for images says what is where, places named: the words that GILL's visual
            tokens imitate; and images stand between captions too. Else it is in several forms.
    """

    shares: Mapping[str, float] = field(
        default_factory=lambda: {"captions": 0.15, "shown": 0.1, "event": 0.1, "story": 0.45, "dialogue": 0.2}
    )
    as_read: bool = False


ALL_KINDS = Mixture()
# What a model reads first, that has yet to learn which of two things a name means.
EVENTS_FIRST = Mixture({"event": 1.0})
# What it reads last, as images are all that it has yet to learn to read.
AS_READ = Mixture({"captions": 0.2, "shown": 0.25, "event": 0.05, "story": 0.4, "dialogue": 0.1}, as_read=True)
# What happens within documents, and how often.
_TELLS_ALL, _HAS_STAND_INS, _DESCRIBED_BETWEEN, _ASKED, _SEEN = 0.4, 0.6, 0.3, 0.25, 0.35
_REMARKED, _TWICE, _AT_ONCE, _ANOTHER, _SHOWN_BETWEEN = 0.5, 0.25, 0.5, 0.3, 0.5
UNKNOWN = "unknown"
REMARK = "is it there ?"
SLOTS = ("kind", "colour", "place")
_ORDINALS = ("first", "second")


def documents(split: str, seed: int) -> Iterator[str]:
    """Documents of a split without end, the same for the same seed."""
    generator = stream(seed, split, "documents")
    while True:
        yield document(split, generator)


def document(split: str, generator: np.random.Generator, mixture: Mixture = ALL_KINDS) -> str:
    """One document, of a kind drawn by its share."""
    kinds, as_read = list(mixture.shares), mixture.as_read
    what = kinds[int(generator.choice(len(kinds), p=list(mixture.shares.values())))]
    if what == "story":
        tells_all = generator.random() < _TELLS_ALL
        story = story_in(split, generator, 0.0 if tells_all else LEAVE_OUT)
        stand_ins = not tells_all and generator.random() < _HAS_STAND_INS
        return story_document(story, generator, stand_ins, as_read)
    if what == "dialogue":
        dialogue = dialogue_in(split, generator)
        rounds = int(generator.integers(len(dialogue.rounds) + 1)) if generator.random() < 0.3 else len(dialogue.rounds)
        if generator.random() < _SEEN:
            return seen_dialogue_document(dialogue, rounds, generator, as_read)
        return f"{dialogue.text(rounds)} {_description(dialogue.known[rounds], generator)}"
    if what == "event":
        return event_document(split, generator)
    if what == "captions":
        return captions_document(split, generator, as_read)
    scene = scene_in(split, generator)
    known = shuffled(all_of(scene), generator)
    shown = _stand_in(scene, known, generator, as_read)
    return f"{shown} {caption(known, generator)} . {_described(known, generator)}"


def captions_document(split: str, generator: np.random.Generator, as_read: bool = False) -> str:
    """A caption and what it says in the plain form, which a colon alone may ask for; other captions before it at times.

    What is asked for is always of the last one, wherever it stands.

    Args:
        as_read (`bool`): Whether what images show stands behind some of those before; see [`Mixture`].
    """
    parts: list[str] = []
    scenes: list[Scene] = []
    while not scenes or generator.random() < _ANOTHER:
        if scenes and as_read and generator.random() < _SHOWN_BETWEEN:
            parts.append(stand_in(scenes[-1]))
        scenes.append(scene_in(split, generator))
        known = shuffled(all_of(scenes[-1]), generator)
        known = leave_out(known, generator, 0.3) if generator.random() < 0.3 else known
        said = caption(known, generator, 0.3)
        parts.append(f"{said} : {describe(known)} ." if generator.random() < _AT_ONCE else f"{said} .")
    return " ".join([*parts, *_asked(known, generator), _described(known, generator)])


def story_document(story: Story, generator: np.random.Generator, stand_ins: bool, as_read: bool = False) -> str:
    """A story with its last state described, others sometimes, and questions sometimes.

    Args:
        stand_ins (`bool`): Whether what each image but the last shows stands behind its sentence.
        as_read (`bool`): See [`Mixture`].
    """
    parts = []
    for number, sentence in enumerate(story.sentences):
        known, last = story.known(number, stand_ins), number == len(story.sentences) - 1
        parts.append(f"{sentence} .")
        if last or generator.random() < _DESCRIBED_BETWEEN:
            parts += [*_asked(known, generator), _described(known, generator, remarked=last)]
        if stand_ins and not last:
            shown = all_of(story.scenes[number], tuple(thing.kind or "" for thing in known.things))
            parts.append(_stand_in(story.scenes[number], shown, generator, as_read))
    return " ".join(parts)


def event_document(split: str, generator: np.random.Generator) -> str:
    """Two things, one event that names what it happens to, and what is so then.

    In stories most events leave no choice of what they happen to; from these the model learns to look for the name.
    """
    while True:
        story = story_in(split, generator, 0.0)
        for number, sentence in enumerate(story.sentences[1:], start=1):
            order = tuple(one.kind or "" for one in story.heard[number - 1].known.things)
            if len(order) == MOST_THINGS and set(order) & set(sentence.split()):
                before = all_of(story.scenes[number - 1], order)
                described = _described(story.known(number, images=True), generator)
                return f"{caption(before, generator)} . {sentence} . {described}"


def seen_dialogue_document(
    dialogue: Dialogue, rounds: int, generator: np.random.Generator, as_read: bool = False
) -> str:
    """A dialogue whose opening is no caption, but the image: what it shows stands there, and tells all."""
    known = shuffled(all_of(dialogue.scene), generator)
    shown = _stand_in(dialogue.scene, known, generator, as_read)
    asked = dialogue.text(rounds).removeprefix(f"{dialogue.opening} .").strip()
    return f"{shown} {asked} {_description(known, generator)}"


def slot_questions(known: Known) -> list[Round]:
    """Seven short questions, always the same: the background, and kind, colour and place of either thing.

    What is not there is `nothing`, what was not told `unknown`.
    """
    rounds = [Round("scene ?", known.background or UNKNOWN)]
    for number in range(MOST_THINGS):
        for slot in SLOTS:
            there = number < len(known.things)
            answer = (getattr(known.things[number], slot) or UNKNOWN) if there else NOTHING
            rounds.append(Round(f"{_ORDINALS[number]} {slot} ?", answer))
    return rounds


def _stand_in(scene: Scene, known: Known, generator: np.random.Generator, as_read: bool) -> str:
    """What stands for an image: what is where, or bare words, or a caption."""
    if as_read:
        return stand_in(scene)
    form = generator.random()
    return f"( {layout(scene) if form < 0.5 else tags(known) if form < 0.75 else describe(known)} )"


def stand_in(scene: Scene) -> str:
    """The words for an image that GILL's visual tokens imitate."""
    return f"( {layout(scene, name_places=True)} )"


def _described(known: Known, generator: np.random.Generator, remarked: bool = True) -> str:
    return f"{IMAGE_REQUEST} {_description(known, generator, remarked)}"


def _description(known: Known, generator: np.random.Generator, remarked: bool = True) -> str:
    """What is known in the plain form: twice at times, and at times with a remark whether there is an image of it."""
    said = describe(known)
    if generator.random() < _TWICE:
        said = f"{said} : {said}"
    if not (remarked and known.complete and generator.random() < _REMARKED):
        return f"{said} ."
    return f"{said} . {REMARK} {remark(known.scene())} ."


def remark(scene: Scene) -> str:
    """The word that says whether there is an image of a scene."""
    return "yes" if is_ordinary(scene) else "no"


def _asked(known: Known, generator: np.random.Generator) -> list[str]:
    if generator.random() >= _ASKED:
        return []
    rounds = slot_questions(known) if generator.random() < 0.7 else ask_all(known)
    chosen = generator.permutation(len(rounds))[: int(generator.integers(1, 4))]
    return [f"{rounds[number].question} {rounds[number].answer} ." for number in chosen]
