"""A trained repository becomes the embedded default."""

from pathlib import Path

import pytest

from picturebook import embed


def test_what_is_embedded_replaces_what_was_and_leaves_out_what_is_here_already(tmp_path: Path) -> None:
    source, folder = tmp_path / "gill", tmp_path / "checkpoint"
    for place, name in (
        (source, "model_index.json"),
        (source, "modeling_gill.py"),
        (source, "embeddings.faiss"),
        (folder, "old.json"),
    ):
        place.mkdir(exist_ok=True)
        (place / name).write_text("{}")
    embed.embed_repository(source, folder)
    assert [path.name for path in folder.iterdir()] == ["model_index.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"gill", "checkpoint"}


def test_a_folder_that_is_no_repository_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(embed, "CHECKPOINT", folder)
    with pytest.raises(SystemExit, match=r"embed: .*model_index.json"):
        embed.main(["--model", str(tmp_path / "none")])
    assert [path.name for path in folder.iterdir()] == ["config.json"]
