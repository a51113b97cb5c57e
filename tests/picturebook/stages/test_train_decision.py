"""The reader's votes are annotations that the decision head is trained on."""

from evaluation_gill.decisions import read_annotations
from picturebook.stages.train_decision import write_annotations
from tests.picturebook.answered_prompts import ASKED, BOTH, DRAWN, FOUND


def test_annotations_are_written_as_the_decision_head_reads_them(tmp_path) -> None:
    write_annotations(tmp_path / "decisions.tsv", [FOUND[0], DRAWN[0], BOTH[0]])
    found = read_annotations(tmp_path / "decisions.tsv")
    assert [(one.prompt, one.label, one.category) for one in found] == [
        (ASKED.prompt, label, "caption") for label in ("retrieve", "generate", "tie")
    ]
