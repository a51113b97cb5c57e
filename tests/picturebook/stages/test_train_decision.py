"""The reader's votes are annotations that the decision head is trained on."""

from evaluation_gill.decisions import read_annotations
from picturebook.models.gill_answers import AnsweredBothWays
from picturebook.stages.train_decision import write_annotations
from picturebook.world.prompts import CAPTION, ImagePrompt
from picturebook.world.scene import Scene, SceneObject

SCENE = Scene((SceneObject("house", "red", "left"),), "night")


ASKED = ImagePrompt("a red house on the left at night", CAPTION, SCENE)


def answered(retrieved: bool, generated: bool, score: float, decided: str) -> AnsweredBothWays:
    return AnsweredBothWays(ASKED, "", retrieved, generated, score, decided)


FOUND = [answered(True, False, 9.0, "retrieve")] * 10


DRAWN = [answered(False, True, 3.0, "generate")] * 20


BOTH = [answered(True, True, 6.0, "generate")] * 10


def test_annotations_are_written_as_the_decision_head_reads_them(tmp_path) -> None:
    write_annotations(tmp_path / "decisions.tsv", [FOUND[0], DRAWN[0], BOTH[0]])
    found = read_annotations(tmp_path / "decisions.tsv")
    assert [(one.prompt, one.label, one.category) for one in found] == [
        (ASKED.prompt, label, "caption") for label in ("retrieve", "generate", "tie")
    ]
