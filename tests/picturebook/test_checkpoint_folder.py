"""Where the trained checkpoint is found, and how it is replaced."""

import json
import os
import textwrap
from pathlib import Path

import pytest

from gill.cli import main
from picturebook import checkpoint_folder, find_checkpoint
from picturebook.checkpoint_folder import CHECKPOINT, embed_repository
from pipeline_gill.hub_layout_gill import flat_code
from tests.warm_processes import run_warm


def test_an_embedded_repository_replaces_the_old_one_with_the_current_code_and_keeps_the_card(tmp_path: Path) -> None:
    source, folder = tmp_path / "gill", tmp_path / "checkpoint"
    for parent, name in (
        (source, "model_index.json"),
        (source, "modeling_gill.py"),
        (source, "embeddings.faiss"),
        (folder, "old.json"),
        (folder, "README.md"),
    ):
        parent.mkdir(exist_ok=True)
        (parent / name).write_text("{}")
    embed_repository(source, folder)
    code = flat_code()
    assert {path.name for path in folder.iterdir()} == {"model_index.json", "README.md", "handler.py", *code}
    assert (folder / "modeling_gill.py").read_text(encoding="utf-8") == code["modeling_gill.py"]
    assert {path.name for path in tmp_path.iterdir()} == {"gill", "checkpoint"}


def test_a_folder_that_is_no_repository_leaves_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(checkpoint_folder, "CHECKPOINT", folder)
    assert main(["picturebook", "embed", "--model", str(tmp_path / "none")]) == 2
    assert "model_index.json" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_without_a_checkout_the_installed_distribution_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gill_picturebook"
    package.mkdir()
    (package / "__init__.py").write_text("CHECKPOINT = '/somewhere/checkpoint'")
    monkeypatch.setattr(checkpoint_folder, "CHECKPOINT", tmp_path / "none")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_checkpoint() == Path("/somewhere/checkpoint")


def test_without_both_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint_folder, "CHECKPOINT", tmp_path / "none")
    monkeypatch.setattr(checkpoint_folder, "find_spec", lambda name: None)
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "pip install 'gill-multimodal[picturebook]'" in capsys.readouterr().err


def test_the_code_in_the_checkpoint_is_the_current_one() -> None:
    stale = [name for name, code in flat_code().items() if _read(CHECKPOINT / name) != code]
    stale += [path.name for path in CHECKPOINT.glob("*_gill.py") if path.name not in flat_code()]
    assert not stale, "refresh it: gill picturebook embed"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


@pytest.mark.slow
def test_the_checkpoint_loads_through_diffusers_and_transformers_from_anywhere(tmp_path: Path) -> None:
    code = f"""
    from diffusers import DiffusionPipeline
    from transformers import AutoModel, AutoProcessor
    pipe = DiffusionPipeline.from_pretrained({str(CHECKPOINT)!r}, trust_remote_code=True)
    assert pipe("a red house on the left at night . picture :", num_inference_steps=1).images
    AutoModel.from_pretrained({str(CHECKPOINT)!r}, trust_remote_code=True)
    AutoProcessor.from_pretrained({str(CHECKPOINT)!r}, trust_remote_code=True)
    """
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    result = run_warm(["-P", "-c", textwrap.dedent(code)], after="torch", cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr


def test_the_checkpoint_has_a_card() -> None:
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---") and "license: apache-2.0" in card


def test_the_card_says_how_the_decision_head_of_the_checkpoint_was_measured() -> None:
    record = json.loads((CHECKPOINT / "results" / "decision.json").read_text(encoding="utf-8"))
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert "Nothing was measured" not in card and "frozen models: wrong statements" not in card
    assert f"{record['macro_f1']:.3f}" in card
