"""Images of a dataset are found by their names, and none is taken for another."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from evaluation_gill.image_files import ImageFolder, damaged_images


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name, format="PNG")
    return folder


def test_an_image_is_found_with_or_without_suffix_and_folders(tmp_path: Path) -> None:
    folder = ImageFolder(write(tmp_path, "a/1.JPG", "2.png"))
    assert folder.find("1") == folder.find("1.JPG") == folder.find("a/1.JPG") == tmp_path / "a/1.JPG"
    # The dataset may have been stored in another format, or in other folders.
    assert folder.find("2.jpg") == folder.find("train/2.png") == tmp_path / "2.png"
    assert folder.find("3") is None and folder.find("3", "2") == tmp_path / "2.png"


@pytest.mark.parametrize("names", [("images/1.jpg", "thumbnails/1.jpg"), ("1.jpg", "1.png")])
def test_two_images_of_one_name_are_refused_with_both(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = ImageFolder(write(tmp_path, *names))
    with pytest.raises(ValueError, match=f"several images named '1': {names[0]}, {names[1]}; expected one"):
        folder.find("1")
    assert [folder.find(name) for name in names] == [tmp_path / name for name in names]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("wanted", ["NFC", "NFD"])
def test_normal_forms_and_escapes_are_the_same_name(tmp_path: Path, stored: str, wanted: str) -> None:
    name = "café au lait.jpg"
    file = unicodedata.normalize(stored, name)
    folder = ImageFolder(write(tmp_path, file))
    assert folder.find(unicodedata.normalize(wanted, name)) == tmp_path / file
    assert folder.find(unicodedata.normalize(wanted, name).replace(" ", "%20")) == tmp_path / file


def test_a_name_with_an_escape_is_found_by_either_spelling_and_the_exact_one_goes_first(tmp_path: Path) -> None:
    assert ImageFolder(write(tmp_path / "a", "b%20c.png")).find("b c.png") == tmp_path / "a/b%20c.png"
    both = ImageFolder(write(tmp_path / "b", "b%20c.png", "b c.png"))
    assert both.find("b c.png") == tmp_path / "b/b c.png" and both.find("b%20c.png") == tmp_path / "b/b%20c.png"


def test_damaged_images_are_named_without_this_machines_folders(tmp_path: Path) -> None:
    write(tmp_path, "good.png", "bad.png", "empty.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "empty.png").write_bytes(b"")
    found = damaged_images([tmp_path / name for name in ("good.png", "bad.png", "empty.png", "bad.png")])
    assert [path.name for path in found] == ["bad.png", "empty.png"]
    assert all(path.name in reason and str(tmp_path) not in reason for path, reason in found.items())
