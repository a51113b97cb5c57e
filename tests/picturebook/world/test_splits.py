"""Train, validation and test have no combination of two objects, no story and no dialogue in common, anywhere."""

import hashlib
import re
from itertools import combinations as pairs_of
from itertools import islice

import pytest

from picturebook.world.documents import documents
from picturebook.world.pairs import sample_pairs
from picturebook.world.scene import COLOURS, KINDS, all_combinations
from picturebook.world.splits import (
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    combinations_of,
    dialogues,
    scenes_with_edits,
    split_of,
    stories,
    stream,
)

NUMBER = {TRAIN: 300, VALIDATION: 60, TEST: 200}


@pytest.fixture(scope="module")
def told() -> dict[str, list]:
    return {split: stories(split, NUMBER[split]) for split in SPLITS}


@pytest.fixture(scope="module")
def asked() -> dict[str, list]:
    return {split: dialogues(split, NUMBER[split]) for split in SPLITS}


def test_every_combination_is_in_one_split() -> None:
    parts = [combinations_of(split) for split in SPLITS]
    assert sum(map(len, parts)) == len({one for part in parts for one in part}) == len(all_combinations())
    assert [len(part) for part in parts] == [706, 100, 202]


def test_training_has_every_object_and_every_two_kinds() -> None:
    objects = {obj for one in combinations_of(TRAIN) for obj in one}
    assert len(objects) == len(KINDS) * len(COLOURS)
    assert {(one[0][0], one[1][0]) for one in combinations_of(TRAIN)} == set(pairs_of(KINDS, 2))


def test_stories_keep_to_their_splits_combinations(told: dict[str, list]) -> None:
    for split, every in told.items():
        assert {split_of(scene) for story in every for scene in story.scenes} <= {split, None}
        assert all(any(split_of(scene) == split for scene in story.scenes) for story in every)


def test_no_story_or_dialogue_is_in_two_splits(told: dict[str, list], asked: dict[str, list]) -> None:
    for texts in (
        [{story.text for story in told[split]} for split in SPLITS],
        [{dialogue.text() for dialogue in asked[split]} for split in SPLITS],
    ):
        assert [len(part) for part in texts] == [NUMBER[split] for split in SPLITS]
        assert all(not one & other for one, other in pairs_of(texts, 2))


def test_dialogues_and_pairs_keep_to_their_splits_combinations(asked: dict[str, list]) -> None:
    for split, every in asked.items():
        assert {split_of(dialogue.scene) for dialogue in every} == {split, None}
        shown = sample_pairs(split, 200, stream(0, split, "test")).scenes
        assert {split_of(scene) for scene in shown} == {split, None}


def test_no_combination_of_another_split_is_in_training_text() -> None:
    obj = f"a ({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
    both = re.compile(f"{obj}(?: (?:on|at) the [a-z]+)? and (?:(?:on|at) the [a-z]+ )?{obj}")
    tagged = re.compile("([a-z]+) ([a-z]+) [a-z]+ ([a-z]+) ([a-z]+) [a-z]+ \\)")
    objects = [(kind, colour) for kind in KINDS for colour in COLOURS]
    mine, found = {frozenset(one) for one in combinations_of(TRAIN)}, 0
    for text in islice(documents(TRAIN, 0), 1_500):
        for words in both.findall(text) + tagged.findall(text):
            named = frozenset({(words[1], words[0]), (words[3], words[2])})
            if named <= set(objects):
                found += 1
                assert named in mine, text
    assert found > 1_500


def test_everything_follows_from_seeds(told: dict[str, list]) -> None:
    assert [story.text for story in stories(TEST, 20)] == [story.text for story in told[TEST][:20]]
    assert stories(TEST, 5, seed=1)[0] != told[TEST][0]
    assert list(islice(documents(TRAIN, 3), 20)) == list(islice(documents(TRAIN, 3), 20))


def test_splits_are_the_same_on_every_machine(told: dict[str, list], asked: dict[str, list]) -> None:
    said = [
        *(str(combinations_of(split)) for split in SPLITS),
        *(story.text for story in told[TEST]),
        *(dialogue.text() for dialogue in asked[TEST]),
        *islice(documents(TRAIN, 0), 50),
    ]
    assert hashlib.sha256("\n".join(said).encode()).hexdigest()[:16] == "58cfcd34d969355d"


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the splits"):
        stories("dev", 1)


def test_edits_of_a_scene_are_in_its_split() -> None:
    scenes = scenes_with_edits(VALIDATION, 30, 8, stream(0, VALIDATION, "edits"))
    assert len(scenes) > 200
    assert {split_of(one) for one in scenes} <= {None, VALIDATION}
