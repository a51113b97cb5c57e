"""Plain English for scenes: sentences and words that a language model trained on English knows, trained on or not.

Words and sentences are in `english_words.yaml` and `english_forms.yaml`. Those of `trained` are trained on; those of
`validation` serve to choose how to train and to calibrate how answers are read, and those of `test` are only measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .caption_grammar import shuffled
from .partial_scene import Attribute, PartialScene, fully_known, with_attribute
from .scene import Scene, sample_one_object
from .splits import TEST, TRAIN, VALIDATION

# How an attribute is said.
TRAINED, SYNONYM, DEFINITION = "trained", "synonym", "definition"
ATTRIBUTES = KIND, COLOUR, PLACE, BACKGROUND = "kinds", "colours", "places", "backgrounds"
# Where the only object of a scene has them.
_ATTRIBUTES: dict[str, Attribute] = {
    KIND: (0, "kind"),
    COLOUR: (0, "colour"),
    PLACE: (0, "place"),
    BACKGROUND: (None, "background"),
}
_FORMS_OF_SPLIT = {TRAIN: TRAINED, VALIDATION: VALIDATION, TEST: TEST}
_VOWELS = "aeiou"


@dataclass(frozen=True)
class Wording:
    """How a sentence says a scene.

    Attributes:
        forms: Split whose sentence forms are used; those of `train` are trained on.
        split: Split of the words that are not trained on.
        said: `synonym` or `definition` for each of `kinds`, `colours`, `places` and `backgrounds` that is said by
            words that are not trained on.
        exactly: The phrase itself, for attributes that are said by this one and no other.
    """

    forms: str = TRAIN
    split: str = TEST
    said: Mapping[str, str] | None = None
    exactly: Mapping[str, str] | None = None

    def words(self, attribute: str, value: str) -> Sequence[str]:
        """The words or phrases that may stand for a value of an attribute.

        Raises:
            ValueError: the attribute is never said like this.
        """
        if attribute in (self.exactly or {}):
            return ((self.exactly or {})[attribute],)
        how = (self.said or {}).get(attribute, TRAINED)
        words = _words()[attribute]
        if how == TRAINED:
            return words[TRAINED][value]
        if how not in words:
            raise ValueError(f"{attribute!r} are not said by {how!r}; expected one of {', '.join(words)}.")
        return words[how][self.split][value]


def sentence(scene: Scene, generator: np.random.Generator, wording: Wording = Wording()) -> str:
    """
    A random sentence that describes a scene completely, its objects in random order.

    Example:

        >>> from picturebook.world.scene import Scene, SceneObject
        >>> scene = Scene((SceneObject("boat", "red", "left"),), "night")
        >>> sentence(scene, np.random.default_rng(2))  # doctest: +SKIP
        'Paint a red boat at the left, in the night, for my daughter.'
    """
    return sentence_of(shuffled(fully_known(scene), generator), generator, wording)


def sentence_of(known: PartialScene, generator: np.random.Generator, wording: Wording = Wording()) -> str:
    """As [`sentence`], of objects in their order; nothing is left out."""
    objects = known.objects
    slots = {"background": _pick(generator, wording.words(BACKGROUND, str(known.background)))}
    for number, obj in enumerate(objects, start=1):
        noun, colour, place = (
            _pick(generator, wording.words(attribute, str(value)))
            for attribute, value in ((KIND, obj.kind), (COLOUR, obj.colour), (PLACE, obj.place))
        )
        suffix = str(number) if len(objects) > 1 else ""
        slots |= {
            f"thing{suffix}": _thing(noun, colour),
            f"noun{suffix}": _with_article(noun),
            f"colour{suffix}": colour,
            f"place{suffix}": place,
        }
    forms = _forms()["one" if len(objects) == 1 else "two"][_FORMS_OF_SPLIT[wording.forms]]
    text = _pick(generator, forms).format(**slots)
    return text[:1].upper() + text[1:] if text[-1] in ".?!" else text


@dataclass(frozen=True)
class Unseen:
    """A request in which one attribute is said in words that are not trained on.

    Attributes:
        text: The request.
        known: What it asks for, one object.
        attribute: The attribute: `kinds`, `colours`, `places` or `backgrounds`.
        phrase: What it is said by.
    """

    text: str
    known: PartialScene
    attribute: str
    phrase: str


def requests_by_phrase(split: str, generator: np.random.Generator, times: int) -> list[Unseen]:
    """`times` requests of one object for each phrase of a split that is not trained on, in trained sentence forms."""
    requests = []
    for attribute, words in _words().items():
        for how in (SYNONYM, DEFINITION):
            for value, phrases in words.get(how, {}).get(split, {}).items():
                for phrase in phrases:
                    for _ in range(times):
                        known = with_attribute(fully_known(sample_one_object(generator)), _ATTRIBUTES[attribute], value)
                        text = sentence_of(known, generator, Wording(exactly={attribute: phrase}))
                        requests.append(Unseen(text, known, attribute, phrase))
    return requests


def texts_without_request(split: str) -> Sequence[str]:
    """What people say without asking for an image."""
    return _forms()["no_request"][_FORMS_OF_SPLIT[split]]


def questions_about_images(split: str) -> Sequence[str]:
    """What people say about an image that they see; the answer is text."""
    return _forms()["about_image"][_FORMS_OF_SPLIT[split]]


def words_in_training(attribute: str) -> Mapping[str, Sequence[str]]:
    """The words of each value of an attribute that are trained on."""
    return _words()[attribute][TRAINED]


def untrained_words(attribute: str, how: str, split: str) -> Mapping[str, Sequence[str]]:
    """The words of each value of an attribute that are not trained on."""
    return _words()[attribute][how][split]


def _thing(noun: str, colour: str) -> str:
    if colour.startswith("the "):
        return f"{_with_article(noun)} in {colour}"
    return _with_article(f"{colour} {noun}")


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in _VOWELS else 'a'} {noun}"


def _pick(generator: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(generator.integers(len(items)))]


@cache
def _words() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("english_words.yaml").read_text(encoding="utf-8"))


@cache
def _forms() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("english_forms.yaml").read_text(encoding="utf-8"))
