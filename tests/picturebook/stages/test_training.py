"""`gill picturebook train --fast`: everything from nothing, in minutes, and better than chance in every stage."""

import json
import re
from pathlib import Path

import pytest
from safetensors.torch import load_file

from picturebook.arguments import DemoArguments, PicturebookTrainArguments, TablesArguments
from picturebook.models.gill_answers import load_pipeline
from picturebook.report.demo import demo
from picturebook.report.tables import write_tables
from picturebook.stages import training
from picturebook.stages.settings import FAST

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fast")
    training.train(PicturebookTrainArguments(out=folder, fast=True))
    return folder


@pytest.fixture(scope="module")
def metrics(trained: Path) -> dict:
    return {path.stem: json.loads(path.read_text()) for path in (trained / "metrics").iterdir()}


def test_every_stage_writes_its_metrics_and_removes_its_checkpoints(trained: Path, metrics: dict) -> None:
    assert {*metrics} == {*training.STAGES}
    assert not list((trained / "checkpoints").glob("*"))


def test_every_stage_draws_a_contact_sheet(trained: Path) -> None:
    assert {path.stem for path in (trained / "sheets").iterdir()} == {*training.STAGES}


def test_every_stage_beats_chance_clearly(metrics: dict) -> None:
    assert metrics["autoencoder"]["psnr_db"] > 18  # one colour all over reaches about 14
    assert metrics["clip"]["right_among_64"] > 0.3  # 1 in 64
    assert metrics["generator"]["right_two_objects"]["background"] > 0.7  # 1 in 4
    assert metrics["generator"]["right_fast_scenes"]["scene"] > 0.3  # 1 in 32
    assert metrics["language_model"]["right_after_1"] > 0.5  # 1 in thousands
    assert metrics["language_model"]["right_after_3"] > 0.1
    assert metrics["adapters"]["right_images_two_objects"]["background"] > 0.7  # 1 in 4
    assert metrics["gill"]["right_background_retrieved"] > 0.7  # 1 in 4
    assert metrics["gill"]["right_retrieved"] > 0.5  # 1 in 48
    # Of prompts whose words are not in training; always to generate or always to retrieve reaches less than 0.5.
    assert metrics["decision"]["macro_f1"] > 0.75


def test_either_image_is_the_only_right_one_for_some_prompts(metrics: dict) -> None:
    labels = metrics["decision"]["labels"]
    assert sum(labels.values()) == FAST.decision_prompts * 5 // 4
    assert min(labels["retrieve"], labels["generate"]) > 10


def test_the_same_command_again_does_nothing(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    training.train(PicturebookTrainArguments(out=trained, fast=True))
    assert capsys.readouterr().out.count("done before") == len(training.STAGES)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_the_repository_loads_and_answers(trained: Path) -> None:
    pipe = load_pipeline(trained / "gill")
    out = pipe(["a red house on the left at night"], force_image=True)
    assert out.image_pieces[0][0].image.size == (32, 32)
    assert out.image_pieces[0][0].decision_probabilities is not None
    assert {str(weight.dtype) for weight in load_file(trained / "gill" / "model.safetensors").values()} == {
        "torch.float16"
    }


def test_tables_of_the_repository_are_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tables(TablesArguments(model=trained / "gill", out=tmp_path, items=12))
    said = capsys.readouterr().out
    assert said.count("### ") == 8 and "index.html" in said
    assert {path.name for path in tmp_path.iterdir()} == {"tables.md", "tables.json", "index.html"}
    found = json.loads((tmp_path / "tables.json").read_text())
    assert len(found["stories"]["rows"]) == 6 and {*found} >= {"stories", "captions", "decision", "seen", "rounds"}
    assert (tmp_path / "tables.md").read_text().strip() in said.strip()


def test_the_demo_of_the_repository_is_one_page(trained: Path, tmp_path: Path) -> None:
    demo(DemoArguments(model=trained / "gill", out=tmp_path))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count('<article class="story">') >= 3 and page.count('<article class="dialogue">') >= 2
    assert "images show all that they should" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
