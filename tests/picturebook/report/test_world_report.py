"""The world command writes what its options ask for."""

from pathlib import Path

import pytest

from picturebook import WorldArguments, write_world


def test_the_world_command_writes_a_page_and_a_dataset_of_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("datasets")
    from training_gill.training_data import open_data

    write_world(WorldArguments(out=tmp_path, sheet=True, pairs=40))
    assert "49,152 scenes" in capsys.readouterr().out
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert page.count("<article") == 1 + 6 + 4 and "Q: can we see it ?" in page
    assert (tmp_path / "objects.png").stat().st_size and (tmp_path / "scenes.png").stat().st_size
    assert len(open_data(str(tmp_path / "pairs"))) == 40  # type: ignore[arg-type]
    assert len(open_data(str(tmp_path / "pairs"), split="validation")) == 2  # type: ignore[arg-type]
