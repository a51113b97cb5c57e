"""Ablations compare trainings that differ in one thing, on the same items."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from picturebook import AblationArguments, TablesArguments, write_ablations, write_tables
from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.report import ablation_tables as tables
from picturebook.report.ablation_tables import AGAIN, DISTANCE, frechet_distance
from picturebook.stages import ablations
from picturebook.stages.ablations import AblationRun, read_ablations, train_ablations
from training_gill import read_recipe

_TRAININGS = {
    *tables._MAPPERS.values(),
    *tables._LONGER.values(),
    *tables._TOKENS.values(),
    *tables._OPTIONS.values(),
}


def test_every_training_is_a_recipe_and_differs_in_few_entries_from_the_first() -> None:
    groups = read_ablations()
    for group, first in (("captions", "gill"), ("stories", "stories_gill"), ("longer", "longer_gill")):
        trainings = groups[group].trainings
        for name, entries in trainings.items():
            read_recipe(ablations.RECIPE, output_dir=name, train_data="pairs", **entries)
            changed = {key for key in entries if entries[key] != trainings[first].get(key)}
            assert len(changed) <= (5 if name == "stories_fromage" else 2), name
            assert not changed & {"max_steps", "learning_rate", "per_device_train_batch_size", "seed"}
    assert {*groups["captions"].trainings, *groups["longer"].trainings} == _TRAININGS


def test_the_distance_of_a_set_from_itself_is_zero_and_grows_with_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 4, generator=generator)
    assert frechet_distance(features, features).value == pytest.approx(0, abs=1e-9)
    moved = frechet_distance(features + 1, features)
    assert moved.value == pytest.approx(4) and moved.low <= moved.value <= moved.high and moved.factor == 1


def test_the_distance_is_that_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(100, 3, generator=generator)
    features = features - features.mean(0)
    # Twice as wide in every direction: the trace of (2 - 1) squared times the covariance.
    expected = float(torch.cov(features.double().T).trace())
    assert frechet_distance(2 * features, features).value == pytest.approx(expected)


def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven trainings of one step."""
    rows = {
        "_MAPPERS": {"linear": "mapper_linear", "GILLMapper": "gill"},
        "_LONGER": {"GILLMapper": "longer_gill"},
        "_TOKENS": {"8": "gill"},
        "_OPTIONS": {"none": "gill", "layers": "layers_learned", "reconstruction loss": "reconstruction"},
    }
    for name, chosen in rows.items():
        monkeypatch.setattr(tables, name, chosen)
    kept = {"stories_fromage", "stories_gill", *(training for of in rows.values() for training in of.values())}
    short = {"max_steps": 1, "warmup_steps": 0, "per_device_train_batch_size": 8, "mapper_num_layers": 1}
    groups = {
        name: replace(
            group,
            pairs=16,
            trainings={row: {**entries, **short} for row, entries in group.trainings.items() if row in kept},
        )
        for name, group in read_ablations().items()
    }
    monkeypatch.setattr(tables, "read_ablations", lambda: groups)
    monkeypatch.setattr(tables, "FEWER_STEPS", 1)
    monkeypatch.setattr(ablations, "_BATCH", 16)
    monkeypatch.setattr(tables, "train_ablations", lambda *args: train_ablations(*args, clip_batches=1))


@pytest.mark.slow
def test_they_are_trained_once_and_the_tables_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few_steps(monkeypatch)
    arguments = AblationArguments(out=tmp_path, items=4)
    found = {table.name: table for table in write_ablations(arguments)}
    assert [len(found[name].rows) for name in ("mappers", "mappers_longer", "img_tokens", "options")] == [2, 1, 1, 3]
    assert all(DISTANCE in row for table in found.values() for row in table.rows.values())
    assert [name for name, row in found["options"].rows.items() if AGAIN in row] == ["none", "reconstruction loss"]
    assert "Mappers" in (tmp_path / "ablations.md").read_text(encoding="utf-8")
    capsys.readouterr()
    again = {table.name: table for table in write_ablations(arguments)}
    assert capsys.readouterr().out.count("trained before") == 7
    assert again["mappers"].rows == found["mappers"].rows

    asked = TablesArguments(out=tmp_path / "tables", items=4, ablations=tmp_path, only="retrieval")
    (retrieval,) = write_tables(asked)
    assert [name.partition(",")[0] for name in retrieval.rows] == ["CLIP"] * 2 + ["FROMAGe"] * 3 + ["GILL"] * 6


@pytest.mark.slow
def test_ablations_of_another_language_model_are_refused(tmp_path: Path) -> None:
    pipe, run = load_pipeline(CHECKPOINT), AblationRun(tmp_path)
    ablations.split_repository(pipe, run)
    with torch.no_grad():
        pipe.model.language_model.get_input_embeddings().weight[0] += 1
    with pytest.raises(ValueError, match="another language_model"):
        ablations.check_frozen(pipe.model, run)


def test_a_training_that_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gill picturebook ablations"):
        AblationRun(tmp_path).load("gill")


def test_items_do_not_depend_on_their_number() -> None:
    few, more = tables.ablation_items(3, 0), tables.ablation_items(5, 0)
    assert few.scenes == more.scenes[:3]
    assert few.truth.shape == (3, 32, 32, 3)
