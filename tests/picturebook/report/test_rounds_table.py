"""Images of dialogues are counted by the number of rounds that were read, and refined ones by what they start from."""

import pytest

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.report import refined_table as refined
from picturebook.report import rounds_table as rounds
from pipeline_gill import GillPipeline


@pytest.fixture(scope="module")
def pipe() -> GillPipeline:
    return load_pipeline(CHECKPOINT)


@pytest.mark.slow
def test_more_rounds_tell_more_and_all_rounds_tell_everything(pipe: GillPipeline) -> None:
    rows = rounds.rounds_table(pipe, 6, 0).rows
    told = [estimate.value for estimate in rows[rounds.TOLD].values()]
    assert told == sorted(told) and told[0] == 0 and told[-1] == 1
    assert rows[rounds.GILL]["all rounds"].value > rows[rounds.PLAIN]["all rounds"].value


@pytest.mark.slow
def test_little_refinement_keeps_the_retrieved_image(pipe: GillPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refined, "STRENGTHS", (0.1,))
    monkeypatch.setattr(refined, "INFERENCE_STEPS", 10)
    rows = refined.refined_table(pipe, 6, 0).rows
    assert list(rows) == ["generated", "retrieved", "retrieved, then refined with strength 0.1"]
    assert [rows[name]["all prompts"].value for name in list(rows)[1:]] == [1, 1]
