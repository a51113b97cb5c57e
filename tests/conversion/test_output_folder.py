"""An output folder appears complete or not at all."""

from pathlib import Path

import pytest

from conversion.original_files import ConversionError
from conversion.output_folder import output_folder


def test_the_folder_appears_only_at_the_end_and_its_parents_are_made(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    with output_folder(out, overwrite=False) as folder:
        (folder / "file").write_text("x")
        assert not out.exists()
        assert folder.parent == out.parent
    assert (out / "file").read_text() == "x"
    assert list(out.parent.iterdir()) == [out]


def test_after_a_failure_nothing_is_left_and_what_was_there_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(RuntimeError), output_folder(out, overwrite=True) as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_overwriting_replaces_the_whole_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with output_folder(out, overwrite=True) as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_an_empty_folder_is_filled_without_asking(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", overwrite=False) as folder:
        (folder / "new").touch()
    assert (tmp_path / "out" / "new").exists()


def test_what_may_not_be_replaced_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "input").mkdir()
    for out, overwrite, inputs, message in (
        ("file", True, [], "is not a folder"),
        ("out", False, [], "--overwrite"),
        ("out", True, [tmp_path / "out"], "the input .*out is in it"),
        ("out", True, [tmp_path / "out" / "input"], "the input .*input is in it"),
    ):
        with pytest.raises(ConversionError, match=message), output_folder(tmp_path / out, overwrite, inputs):
            raise AssertionError("must not come to this")
    assert (tmp_path / "out" / "input").is_dir()
