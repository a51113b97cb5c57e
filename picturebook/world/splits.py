"""Train, validation and test split, which depend on fixed seeds only.

The splits have in common

* no combination of two objects (two kinds with their colours, at any places), at any time of a story. Every single
  object is in all of them, as are scenes of one object.
* no story and no dialogue: a digest of its words decides the split. Stories have two objects at least once.
"""

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np

from .dialogue_sampling import SceneDialogue, sample_dialogue
from .scene import (
    FAST_SCENES,
    Combination,
    Scene,
    all_combinations,
    sample_one_object,
    sample_two_objects,
    shuffled_edits,
)
from .story_sampling import LEAVE_OUT, SceneStory, sample_story

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

SHARES = {TRAIN: 0.7, VALIDATION: 0.1, TEST: 0.2}
SINGLE_OBJECT_SHARE = 0.3
# Tenths of all digests that belong to each split.
_TENTHS = {TEST: range(0, 2), VALIDATION: range(2, 3), TRAIN: range(3, 10)}
_COMBINATIONS_SEED = 20_230


@cache
def combinations_of(split: str) -> tuple[Combination, ...]:
    """The combinations of two objects in a split, in one fixed order.

    Raises:
        ValueError: no such split.
    """
    check_split(split)
    combinations = all_combinations()
    order = np.argsort(np.random.default_rng(_COMBINATIONS_SEED).random(len(combinations)), kind="stable")
    ends = np.round(np.cumsum([SHARES[name] for name in SPLITS]) * len(combinations)).astype(int)
    begins = dict(zip(SPLITS, (0, *ends[:-1]), strict=True))
    numbers = sorted(order[begins[split] : ends[SPLITS.index(split)]].tolist())
    return tuple(combinations[number] for number in numbers)


@cache
def split_of_combination() -> dict[Combination, str]:
    """The split of each combination of two objects."""
    return {combination: split for split in SPLITS for combination in combinations_of(split)}


def split_of(scene: Scene) -> str | None:
    """The split of a scene of two objects; `None` for one object, which is in all of them."""
    return None if scene.combination is None else split_of_combination()[scene.combination]


def split_of_text(text: str) -> str:
    """The split of a story's or dialogue's words."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def stream(seed: int, split: str, purpose: str) -> np.random.Generator:
    """The random generator of a seed, split and purpose, the same on every machine.

    The words of the purpose are a part of the seed: other words give other data.

    Raises:
        ValueError: no such split.
    """
    check_split(split)
    digest = hashlib.sha256(f"{split} {purpose}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def scene_in(
    split: str, generator: np.random.Generator, single_share: float = SINGLE_OBJECT_SHARE, fast: float = 0.0
) -> Scene:
    """A scene of a split: one of `FAST_SCENES` with probability `fast`, else one object with that of `single_share`."""
    combinations = combinations_of(split)
    if fast and generator.random() < fast:
        return FAST_SCENES[int(generator.integers(len(FAST_SCENES)))]
    if generator.random() < single_share:
        return sample_one_object(generator)
    return sample_two_objects(generator, combinations[int(generator.integers(len(combinations)))])


def scenes_with_edits(
    split: str,
    count: int,
    group_size: int,
    generator: np.random.Generator,
    single_share: float = SINGLE_OBJECT_SHARE,
    fast: float = 0.0,
) -> list[Scene]:
    """`count` scenes of a split, each followed by edits of it: scenes that differ in one attribute, hard negatives.

    Args:
        group_size (`int`): Scenes in a group at most, the edited one included.
        fast (`float`): Share of the groups whose first scene is one of `FAST_SCENES`.
    """
    scenes: list[Scene] = []
    for _ in range(count):
        scene = scene_in(split, generator, single_share, fast)
        edits = [edit for edit in shuffled_edits(scene, generator) if split_of(edit) in (None, split)]
        scenes += [scene, *edits[: group_size - 1]]
    return scenes


def story_in(split: str, generator: np.random.Generator, leave_out: float = LEAVE_OUT) -> SceneStory:
    """A story of a split."""
    combinations = _combination_set(split)
    while True:
        story = sample_story(generator, combinations, leave_out)
        if split_of_text(story.text) == split:
            return story


def dialogue_in(split: str, generator: np.random.Generator, single_share: float = SINGLE_OBJECT_SHARE) -> SceneDialogue:
    """A dialogue of a split."""
    while True:
        dialogue = sample_dialogue(generator, scene_in(split, generator, single_share))
        if split_of_text(dialogue.text()) == split:
            return dialogue


def stories(split: str, number: int, seed: int = 0, leave_out: float = LEAVE_OUT) -> list[SceneStory]:
    """`number` different stories of a split, which depend on the seed; fewer are the first of more."""
    generator = stream(seed, split, f"stories {leave_out}")
    return _distinct((story_in(split, generator, leave_out) for _ in iter(int, 1)), number)


def dialogues(split: str, number: int, seed: int = 0, single_share: float = SINGLE_OBJECT_SHARE) -> list[SceneDialogue]:
    """`number` different dialogues of a split, which depend on the seed; fewer are the first of more."""
    generator = stream(seed, split, f"dialogues {single_share}")
    return _distinct((dialogue_in(split, generator, single_share) for _ in iter(int, 1)), number)


def check_split(split: str) -> None:
    """
    Raises:
        ValueError: no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is none of the splits {', '.join(SPLITS)}.")


@cache
def _combination_set(split: str) -> frozenset[Combination]:
    return frozenset(combinations_of(split))


def _distinct(items: Iterator, number: int) -> list:
    distinct: dict[str, SceneStory | SceneDialogue] = {}
    while len(distinct) < number:
        item = next(items)
        distinct.setdefault(item.text if isinstance(item, SceneStory) else item.text(), item)
    return list(distinct.values())
