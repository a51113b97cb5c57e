"""What is written behind an image is compared with what is written behind the words for it."""

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.report.seen_table import IMAGE, WORDS, seen_table


def test_captions_answers_and_descriptions_are_measured_behind_images_and_words() -> None:
    table = seen_table(load_pipeline(CHECKPOINT), items=8, seed=0)
    assert [*table.rows] == [IMAGE, WORDS]
    for metrics in table.rows.values():
        assert {*metrics} == {*table.columns}
        assert metrics["caption"].value >= 0.5 and metrics["open questions"].value >= 0.6
    assert "Captions of 8 scenes" in table.note
