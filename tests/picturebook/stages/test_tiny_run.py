"""All stages, a few steps each: that they fit together, not what they reach."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from picturebook.models.gill_answers import load_pipeline
from picturebook.stages.run_folder import RunFolder
from picturebook.stages.settings import FAST, Settings
from picturebook.stages.training import STAGES, run_stages


def tiny() -> Settings:
    """`FAST` with two steps per stage, few examples and a small retrieval set."""
    short = {
        name: tuple(replace(phase, steps=2) for phase in getattr(FAST, name))
        for name in ("clip", "language_model", "generator")
    }
    return replace(
        FAST,
        **short,
        autoencoder=replace(FAST.autoencoder, steps=2),
        pairs=64,
        visual_projection=tuple(replace(schedule, steps=2) for schedule in FAST.visual_projection),
        adapters={**FAST.adapters, "max_steps": 2, "warmup_steps": 0},
        mapper={**FAST.mapper, "max_steps": 2, "warmup_steps": 0},
        decision_prompts=8,
        measured=8,
    )


@pytest.mark.slow
def test_all_stages_run_one_after_the_other_and_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    run_stages(run, tiny(), until="clip")
    run_stages(run, tiny())
    assert capsys.readouterr().out.count("done before") == 2
    assert {path.stem for path in (tmp_path / "metrics").glob("*.json")} == {*STAGES}
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert json.loads((tmp_path / "metrics/gill.json").read_text())["megabytes"] < 30
    pipe = load_pipeline(run.folder("gill"))
    assert pipe("a red house on the left at night", force_image=True).images
