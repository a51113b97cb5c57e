"""Text for the language model: captions, stories and dialogues, with questions and descriptions of the current scene.

A document is one line of words. Some documents have images in words, in brackets where the images would be: a layout,
tags or a caption. So the model learns to use what is in brackets, and the adapters can learn visual tokens that have
the same effect as these words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from .caption_grammar import NOTHING, caption, describe, layout, leave_out, shuffled, tags
from .dialogue_sampling import QuestionAnswer, SceneDialogue, ask_all
from .partial_scene import PartialScene, fully_known
from .phrases import IMAGE_REQUEST, words_of
from .scene import BACKGROUNDS, COLOURS, KINDS, MAX_OBJECTS, PLACES, Scene, is_retrievable
from .splits import dialogue_in, scene_in, story_in, stream
from .story_sampling import LEAVE_OUT, SceneStory


@dataclass(frozen=True)
class DocumentMixture:
    """The mixture of documents.

    Attributes:
        shares: Probability of each kind.
        as_read: Whether all that stands for images says what is where, places named: the words that GILL's visual
            tokens imitate; and images stand between captions too. Else it is in several forms.
    """

    shares: Mapping[str, float] = field(
        default_factory=lambda: {"captions": 0.15, "shown": 0.1, "event": 0.1, "story": 0.45, "dialogue": 0.2}
    )
    as_read: bool = False


ALL_KINDS = DocumentMixture()
# For the first steps, in which a model learns which of two objects a name refers to.
EVENTS_FIRST = DocumentMixture({"event": 1.0})
# For the last steps, in which a model learns to read images in words.
AS_READ = DocumentMixture({"captions": 0.2, "shown": 0.25, "event": 0.05, "story": 0.4, "dialogue": 0.1}, as_read=True)
# Probabilities of what is in a document.
_TELLS_ALL, _HAS_IMAGES_IN_WORDS, _DESCRIBED_BETWEEN, _ASKED, _SEEN = 0.4, 0.6, 0.3, 0.25, 0.35
_SAYS_AVAILABILITY, _TWICE, _AT_ONCE, _ANOTHER, _SHOWN_BETWEEN = 0.5, 0.25, 0.5, 0.3, 0.5
UNKNOWN = "unknown"
AVAILABILITY_QUESTION = "is it there ?"
SLOTS = ("kind", "colour", "place")
_ORDINALS = ("first", "second")
_OTHER_WORDS = (
    "( ) , . : ? A: Q: a and appears are at away become becomes by can change changes colour comes falls first goes "
    "how in is it joins kind leaves many moves no nothing now on one picture place places rises scene second see soon "
    "sun swap the then there they thing things to turn turns two unknown we what where yes"
)


def documents(split: str, seed: int) -> Iterator[str]:
    """An endless stream of documents of a split; the same seed gives the same documents."""
    generator = stream(seed, split, "documents")
    while True:
        yield document(split, generator)


def document(split: str, generator: np.random.Generator, mixture: DocumentMixture = ALL_KINDS) -> str:
    """A document of a random kind."""
    kinds, as_read = list(mixture.shares), mixture.as_read
    what = kinds[int(generator.choice(len(kinds), p=list(mixture.shares.values())))]
    if what == "story":
        tells_all = generator.random() < _TELLS_ALL
        story = story_in(split, generator, 0.0 if tells_all else LEAVE_OUT)
        images_in_words = not tells_all and generator.random() < _HAS_IMAGES_IN_WORDS
        return story_document(story, generator, images_in_words, as_read)
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
    known = shuffled(fully_known(scene), generator)
    shown = _image_in_words(scene, known, generator, as_read)
    return f"{shown} {caption(known, generator)} . {_described(known, generator)}"


def captions_document(split: str, generator: np.random.Generator, as_read: bool = False) -> str:
    """A caption and its plain form, after a colon alone or after `picture :`; sometimes with other captions before it.

    The description at the end is always of the last caption.

    Args:
        as_read (`bool`): Whether images in words follow some of the captions before; see [`DocumentMixture`].
    """
    parts: list[str] = []
    scenes: list[Scene] = []
    while not scenes or generator.random() < _ANOTHER:
        if scenes and as_read and generator.random() < _SHOWN_BETWEEN:
            parts.append(image_in_words(scenes[-1]))
        scenes.append(scene_in(split, generator))
        known = shuffled(fully_known(scenes[-1]), generator)
        known = leave_out(known, generator, 0.3) if generator.random() < 0.3 else known
        text = caption(known, generator, 0.3)
        parts.append(f"{text} : {describe(known)} ." if generator.random() < _AT_ONCE else f"{text} .")
    return " ".join([*parts, *_asked(known, generator), _described(known, generator)])


def story_document(
    story: SceneStory, generator: np.random.Generator, images_in_words: bool, as_read: bool = False
) -> str:
    """A story with a description of its last scene, and sometimes of others, and sometimes with questions.

    Args:
        images_in_words (`bool`): Whether its image in words follows each sentence but the last.
        as_read (`bool`): See [`DocumentMixture`].
    """
    parts = []
    for number, sentence in enumerate(story.sentences):
        known, last = story.known(number, images_in_words), number == len(story.sentences) - 1
        parts.append(f"{sentence} .")
        if last or generator.random() < _DESCRIBED_BETWEEN:
            parts += [*_asked(known, generator), _described(known, generator, with_availability=last)]
        if images_in_words and not last:
            shown = fully_known(story.scenes[number], known.kinds)
            parts.append(_image_in_words(story.scenes[number], shown, generator, as_read))
    return " ".join(parts)


def event_document(split: str, generator: np.random.Generator) -> str:
    """A caption of two objects, an event that names one of them, and a description of the scene after it.

    Most events of stories could only happen to one object; from these the model learns to look for the name.
    """
    while True:
        story = story_in(split, generator, 0.0)
        for number, sentence in enumerate(story.sentences[1:], start=1):
            order = story.listener[number - 1].known.kinds
            if len(order) == MAX_OBJECTS and set(order) & set(sentence.split()):
                before = fully_known(story.scenes[number - 1], order)
                described = _described(story.known(number, images=True), generator)
                return f"{caption(before, generator)} . {sentence} . {described}"


def seen_dialogue_document(
    dialogue: SceneDialogue, rounds: int, generator: np.random.Generator, as_read: bool = False
) -> str:
    """A dialogue that begins with the image in words, which is complete, instead of a caption."""
    known = shuffled(fully_known(dialogue.scene), generator)
    shown = _image_in_words(dialogue.scene, known, generator, as_read)
    asked = dialogue.text(rounds).removeprefix(f"{dialogue.opening} .").strip()
    return f"{shown} {asked} {_description(known, generator)}"


def slot_questions(known: PartialScene) -> list[QuestionAnswer]:
    """Seven short questions, always the same: the background, and kind, colour and place of either object.

    The answer is `nothing` for a missing object, and `unknown` for what was not told.
    """
    rounds = [QuestionAnswer("scene ?", known.background or UNKNOWN)]
    for number in range(MAX_OBJECTS):
        for slot in SLOTS:
            exists = number < len(known.objects)
            answer = (getattr(known.objects[number], slot) or UNKNOWN) if exists else NOTHING
            rounds.append(QuestionAnswer(f"{_ORDINALS[number]} {slot} ?", answer))
    return rounds


def _image_in_words(scene: Scene, known: PartialScene, generator: np.random.Generator, as_read: bool) -> str:
    """A layout, tags or a caption in brackets, in place of an image."""
    if as_read:
        return image_in_words(scene)
    form = generator.random()
    return f"( {layout(scene) if form < 0.5 else tags(known) if form < 0.75 else describe(known)} )"


def image_in_words(scene: Scene) -> str:
    """The layout in brackets whose word embeddings GILL's visual tokens imitate."""
    return f"( {layout(scene, name_places=True)} )"


def _described(known: PartialScene, generator: np.random.Generator, with_availability: bool = True) -> str:
    return f"{IMAGE_REQUEST} {_description(known, generator, with_availability)}"


def _description(known: PartialScene, generator: np.random.Generator, with_availability: bool = True) -> str:
    """The plain form, sometimes twice, and sometimes followed by whether the scene is retrievable."""
    description = describe(known)
    if generator.random() < _TWICE:
        description = f"{description} : {description}"
    if not (with_availability and known.complete and generator.random() < _SAYS_AVAILABILITY):
        return f"{description} ."
    return f"{description} . {AVAILABILITY_QUESTION} {availability_word(known.scene())} ."


def availability_word(scene: Scene) -> str:
    """`yes` if a scene is retrievable, else `no`."""
    return "yes" if is_retrievable(scene) else "no"


def _asked(known: PartialScene, generator: np.random.Generator) -> list[str]:
    if generator.random() >= _ASKED:
        return []
    rounds = slot_questions(known) if generator.random() < 0.7 else ask_all(known)
    chosen = generator.permutation(len(rounds))[: int(generator.integers(1, 4))]
    return [f"{rounds[number].question} {rounds[number].answer} ." for number in chosen]


def vocabulary() -> tuple[str, ...]:
    """All words and punctuation marks, a token each, sorted. Special tokens are the tokenizer's own."""
    return tuple(sorted({*KINDS, *COLOURS, *PLACES, *BACKGROUNDS, *words_of(_OTHER_WORDS)}))
