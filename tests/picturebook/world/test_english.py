"""Plain English for scenes: what is trained on is apart from what is measured."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from picturebook.world.english import (
    BACKGROUND,
    COLOUR,
    DEFINITION,
    KIND,
    PLACE,
    SYNONYM,
    Wording,
    questions_about_images,
    requests_by_phrase,
    sentence,
    texts_without_request,
    untrained_words,
    words_in_training,
)
from picturebook.world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, all_scenes
from picturebook.world.splits import SPLITS, TEST, TRAIN, VALIDATION

SAID = [(KIND, SYNONYM), (KIND, DEFINITION), (COLOUR, SYNONYM), (COLOUR, DEFINITION), (PLACE, SYNONYM)]
SAID.append((BACKGROUND, SYNONYM))
VALUES = {KIND: KINDS, COLOUR: COLOURS, PLACE: PLACES, BACKGROUND: BACKGROUNDS}


@pytest.mark.parametrize("attribute, how", SAID)
def test_words_to_measure_with_are_apart_from_trained_words_and_from_those_to_choose_with(
    attribute: str, how: str
) -> None:
    chosen, measured = (
        {word for words in untrained_words(attribute, how, split).values() for word in words}
        for split in (VALIDATION, TEST)
    )
    assert chosen and measured and not chosen & measured
    own = {*KINDS, *COLOURS, *PLACES, *BACKGROUNDS}
    for phrase in chosen | measured:
        parts = phrase.lower().replace(",", " ").split()
        assert not own & {*parts}, phrase
        # Nor a word that is made of one, such as "sailboat"; "stop" is not made of "top".
        made_of = own - {"right", "car", "cat", "day"}
        assert not any(
            part.startswith(word) or part.endswith(word) for part in {*parts} - {"stop"} for word in made_of
        ), phrase


@pytest.mark.parametrize("attribute, how", SAID)
def test_every_value_has_words_to_choose_and_to_measure_with(attribute: str, how: str) -> None:
    for split in (VALIDATION, TEST):
        assert {*untrained_words(attribute, how, split)} == {*VALUES[attribute]}
    assert {*words_in_training(attribute)} == {*VALUES[attribute]}


def test_all_scenes_can_be_said_in_every_form() -> None:
    generator = np.random.default_rng(0)
    for scene in itertools.islice(all_scenes(), 0, 4_000, 13):
        for split in SPLITS:
            text = sentence(scene, generator, Wording(split))
            assert "{" not in text
            assert all(obj.kind in text.lower() and obj.colour in text.lower() for obj in scene.objects)


def test_sentences_depend_on_the_generator_alone() -> None:
    scene = next(all_scenes())
    one, other = (sentence(scene, np.random.default_rng(7), Wording(TRAIN)) for _ in range(2))
    assert one == other


def test_a_colour_by_definition_follows_its_noun() -> None:
    wording = Wording(TRAIN, TEST, {COLOUR: DEFINITION})
    texts = {sentence(next(all_scenes()), np.random.default_rng(seed), wording) for seed in range(40)}
    assert any("house in the colour of" in text for text in texts)


def test_attributes_that_have_no_definitions_are_refused() -> None:
    with pytest.raises(ValueError, match="places"):
        sentence(next(all_scenes()), np.random.default_rng(0), Wording(TRAIN, TEST, {PLACE: DEFINITION}))


def test_every_phrase_to_choose_by_is_asked_for_as_often() -> None:
    requests = requests_by_phrase(VALIDATION, np.random.default_rng(0), 2)
    count = Counter((each.attribute, each.phrase) for each in requests)
    assert {*count.values()} == {2}
    for each in requests:
        assert each.phrase.lower() in each.text.lower()
        obj = each.known.objects[0]
        values = {KIND: obj.kind, COLOUR: obj.colour, PLACE: obj.place, BACKGROUND: each.known.background}
        hows = (SYNONYM, DEFINITION) if each.attribute in (KIND, COLOUR) else (SYNONYM,)
        assert any(
            each.phrase in untrained_words(each.attribute, how, VALIDATION)[str(values[each.attribute])] for how in hows
        )


@pytest.mark.parametrize("texts_of", [texts_without_request, questions_about_images])
def test_texts_that_request_nothing_are_apart_too(texts_of: Callable[[str], Sequence[str]]) -> None:
    texts = [{*texts_of(split)} for split in SPLITS]
    assert all(texts) and not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]
