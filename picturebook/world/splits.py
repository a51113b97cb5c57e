"""What is for training, for choosing recipes, and for the tables. Everything follows from fixed seeds.

Train, validation and test share

* no combination of two things (two kinds with their colours, wherever they are): no story of one split ever comes
  through a combination of another. Every thing by itself is in all of them, as are scenes of one thing.
* no story and no dialogue: the words of each decide its split, by a digest, so that not even two that leave out what
  makes them different can be the same. Test stories have two things at least once.

"""

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np

from .dialogue_sampling import Dialogue, sample_dialogue
from .familiar import FAMILIAR
from .scene import Combination, Scene, all_combinations, sample_one, sample_two
from .story_sampling import LEAVE_OUT, Story, sample_story

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)

SHARES = {TRAIN: 0.7, VALIDATION: 0.1, TEST: 0.2}
SHARE_OF_ONE_THING = 0.3
# Ends of each split's tenths of all digests.
_TENTHS = {TEST: range(0, 2), VALIDATION: range(2, 3), TRAIN: range(3, 10)}
_COMBINATIONS_SEED = 20_230


@cache
def combinations_of(split: str) -> tuple[Combination, ...]:
    """The combinations of two things in a split, in one fixed order.

    Raises:
        ValueError: no such split.
    """
    check_split(split)
    every = all_combinations()
    order = np.argsort(np.random.default_rng(_COMBINATIONS_SEED).random(len(every)), kind="stable")
    ends = np.round(np.cumsum([SHARES[name] for name in SPLITS]) * len(every)).astype(int)
    begins = dict(zip(SPLITS, (0, *ends[:-1]), strict=True))
    mine = sorted(order[begins[split] : ends[SPLITS.index(split)]].tolist())
    return tuple(every[number] for number in mine)


@cache
def split_of_combination() -> dict[Combination, str]:
    """The split of each combination of two things."""
    return {one: split for split in SPLITS for one in combinations_of(split)}


def split_of(scene: Scene) -> str | None:
    """The split of a scene of two things; `None` for one thing, which is in all of them."""
    return None if scene.combination is None else split_of_combination()[scene.combination]


def split_of_text(text: str) -> str:
    """The split of a story's or dialogue's words."""
    tenth = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def stream(seed: int, split: str, purpose: str) -> np.random.Generator:
    """A generator of its own for each seed, split and purpose, the same on every machine.

    Raises:
        ValueError: no such split.
    """
    check_split(split)
    digest = hashlib.sha256(f"{split} {purpose}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def scene_in(
    split: str, generator: np.random.Generator, one_thing: float = SHARE_OF_ONE_THING, familiar: float = 0.0
) -> Scene:
    """A scene of a split; a familiar one with the latter probability, and of the others one thing with the former."""
    combinations = combinations_of(split)
    if familiar and generator.random() < familiar:
        return FAMILIAR[int(generator.integers(len(FAMILIAR)))]
    if generator.random() < one_thing:
        return sample_one(generator)
    return sample_two(generator, combinations[int(generator.integers(len(combinations)))])


def story_in(split: str, generator: np.random.Generator, leave_out: float = LEAVE_OUT) -> Story:
    """A story of a split."""
    combinations = _combination_set(split)
    while True:
        story = sample_story(generator, combinations, leave_out)
        if split_of_text(story.text) == split:
            return story


def dialogue_in(split: str, generator: np.random.Generator, one_thing: float = SHARE_OF_ONE_THING) -> Dialogue:
    """A dialogue of a split."""
    while True:
        dialogue = sample_dialogue(generator, scene_in(split, generator, one_thing))
        if split_of_text(dialogue.text()) == split:
            return dialogue


def stories(split: str, number: int, seed: int = 0, leave_out: float = LEAVE_OUT) -> list[Story]:
    """So many different stories of a split, the same for the same seed; fewer are the first of more."""
    generator = stream(seed, split, f"stories {leave_out}")
    return _distinct((story_in(split, generator, leave_out) for _ in iter(int, 1)), number)


def dialogues(split: str, number: int, seed: int = 0, one_thing: float = SHARE_OF_ONE_THING) -> list[Dialogue]:
    """So many different dialogues of a split, the same for the same seed; fewer are the first of more."""
    generator = stream(seed, split, f"dialogues {one_thing}")
    return _distinct((dialogue_in(split, generator, one_thing) for _ in iter(int, 1)), number)


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


def _distinct(told: Iterator, number: int) -> list:
    found: dict[str, Story | Dialogue] = {}
    while len(found) < number:
        one = next(told)
        found.setdefault(one.text if isinstance(one, Story) else one.text(), one)
    return list(found.values())
