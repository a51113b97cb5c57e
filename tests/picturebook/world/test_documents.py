"""Documents describe the current scene, in known words only."""

import re
from itertools import islice

import numpy as np

from picturebook.world.caption_grammar import parse_caption
from picturebook.world.documents import (
    AVAILABILITY_QUESTION,
    captions_document,
    document,
    documents,
    slot_questions,
    story_document,
    vocabulary,
)
from picturebook.world.pairs import PairMixture, sample_pairs
from picturebook.world.partial_scene import PartialObject, PartialScene, fully_known
from picturebook.world.phrases import words_of
from picturebook.world.scene import Scene, SceneObject, is_retrievable
from picturebook.world.splits import SPLITS, TRAIN, dialogues, stories, stream
from picturebook.world.story_listener import fits

KNOWN = fully_known(Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night"))


def test_the_vocabulary_is_exactly_the_words_of_all_texts() -> None:
    used: set[str] = set()
    for split in SPLITS:
        for text in islice(documents(split, 1), 400):
            assert words_of(text) == text.split()
            used.update(text.split())
        captions = sample_pairs(split, 500, stream(0, split, "words"), PairMixture(partial_share=0.5)).captions
        used.update(word for text in captions for word in text.split())
        used.update(word for one in dialogues(split, 40) for word in one.text().split())
    assert used == set(vocabulary())
    assert len(vocabulary()) < 100 and list(vocabulary()) == sorted(vocabulary())


def test_slot_questions_ask_for_the_known_scene_in_order_of_appearance() -> None:
    assert [one.answer for one in slot_questions(KNOWN)] == ["night", "house", "red", "left", "boat", "blue", "top"]
    assert [one.answer for one in slot_questions(PartialScene((PartialObject("cat"),)))] == [
        "unknown",
        "cat",
        "unknown",
        "unknown",
        "nothing",
        "nothing",
        "nothing",
    ]
    assert slot_questions(KNOWN)[5].question == "second colour ?"


def test_descriptions_in_documents_are_of_the_current_scene() -> None:
    generator = np.random.default_rng(0)
    for story in stories(TRAIN, 60):
        for images_in_words in (False, True):
            text = story_document(story, generator, images_in_words)
            described = re.findall(r"picture : ([^.:]*) [.:]", text)
            found = parse_caption(described[-1])
            assert found == story.known(4, images=images_in_words)
            assert found is not None and fits(found, story.scenes[-1]) and found.complete >= images_in_words
            assert text.count("(") == (4 if images_in_words else 0)


def test_descriptions_repeat_the_last_caption_and_availability_is_true() -> None:
    generator = np.random.default_rng(2)
    seen = {"yes": 0, "no": 0}
    for text in (captions_document(TRAIN, generator) for _ in range(300)):
        told = None
        for sentence in text.removesuffix(" .").split(" . "):
            if sentence.startswith(AVAILABILITY_QUESTION):
                assert told is not None
                answer = sentence.removeprefix(AVAILABILITY_QUESTION).strip()
                assert answer == ("yes" if is_retrievable(told.scene()) else "no")
                seen[answer] += 1
            elif "?" not in sentence:
                said, *again = [parse_caption(part) for part in sentence.removeprefix("picture : ").split(" : ")]
                assert said is not None and all(one == said for one in again)
                assert not sentence.startswith("picture :") or said == told
                told = said
    assert min(seen.values()) > 10


def test_every_description_is_a_caption() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        text = document(TRAIN, generator)
        described = re.findall(r"picture : ([^.:]*) [.:]", text)
        assert described and all(parse_caption(one) is not None for one in described), text
