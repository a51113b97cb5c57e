"""Questions have right answers, and dialogues describe their scene completely."""

import numpy as np
import pytest

from picturebook.world.caption_grammar import parse_caption
from picturebook.world.dialogue_sampling import QuestionAnswer, all_yes_or_no, ask_all, sample_dialogue
from picturebook.world.partial_scene import fully_known
from picturebook.world.scene import Scene, SceneObject
from picturebook.world.splits import TRAIN, scene_in
from picturebook.world.story_listener import fits

KNOWN = fully_known(Scene((SceneObject("house", "red", "left"), SceneObject("boat", "blue", "top")), "night"))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("how many things are there ?", "two"),
        ("what is the scene ?", "night"),
        ("what colour is the house ?", "red"),
        ("where is the boat ?", "at the top"),
        ("what is on the left ?", "a house"),
        ("what is at the bottom ?", "nothing"),
        ("is there a boat ?", "yes"),
        ("is there a cat ?", "no"),
        ("is it day ?", "no"),
        ("is the boat blue ?", "yes"),
    ],
)
def test_questions_have_the_right_answers(question: str, answer: str) -> None:
    assert QuestionAnswer(question, answer) in [*ask_all(KNOWN), *all_yes_or_no(KNOWN)]


def test_dialogues_describe_their_scene_completely_and_end_with_the_request() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        scene = scene_in(TRAIN, generator)
        dialogue = sample_dialogue(generator, scene)
        assert parse_caption(dialogue.opening) == dialogue.known[0] and not dialogue.known[0].complete
        assert dialogue.known[-1].scene() == scene and len(dialogue.known) == len(dialogue.rounds) + 1
        assert all(fits(known, scene) for known in dialogue.known)
        assert dialogue.text().endswith("Q: can we see it ? A: picture :")
        assert (
            dialogue.text().count("Q:")
            == len(dialogue.rounds) + 1
            == dialogue.text(1).count("Q:") - 1 + len(dialogue.rounds)
        )
        every = [*ask_all(dialogue.known[-1]), *all_yes_or_no(dialogue.known[-1])]
        assert all(one in every for one in dialogue.rounds)
