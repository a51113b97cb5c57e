"""A retrieval set on disk or on the Hub is whole or not there, and says what is wrong with it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modeling_gill.image_loading_gill import ImageError
from pipeline_gill import retrieval_index_gill, retrieval_storage_gill
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.tiny_retrieval import (
    RED,
    build,
    colour_of,
    paint,
    ranked_set,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


@pytest.fixture(params=["faiss", "no faiss"])
def either_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(retrieval_index_gill, "faiss", None)


# --- keeping ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_search")
@pytest.mark.parametrize("embed", [True, False])
def test_a_saved_set_is_the_same_when_loaded_and_moves_with_its_images(
    folder: Path, tmp_path: Path, embed: bool
) -> None:
    built = build(folder, embed_images=embed, source="four colours")
    built.save(tmp_path / "all" / "set")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(folder, moved / "images")
    shutil.move(tmp_path / "all", moved / "all")
    loaded = RetrievalSet.load(moved / "all" / "set")
    found = loaded.retrieve(RED)
    assert found is not None and (colour_of(found), found.caption) == ("red", "red")
    assert (loaded.info.fingerprint, loaded.info.source) == (built.info.fingerprint, "four colours")
    assert torch.equal(loaded.search(torch.ones(1, 3), 4)[0], built.search(torch.ones(1, 3), 4)[0])
    assert str(tmp_path) not in (moved / "all" / "set" / "retrieval_set.json").read_text()
    assert sorted(path.name for path in (moved / "all").iterdir()) == ["set"]


def test_a_set_loaded_and_saved_over_itself_is_still_whole(folder: Path, tmp_path: Path) -> None:
    build(folder).save(tmp_path / "set")
    loaded = RetrievalSet.load(tmp_path / "set")
    with pytest.raises(FileExistsError, match="overwrite"):
        loaded.save(tmp_path / "set")
    loaded.save(tmp_path / "set", overwrite=True)
    found = RetrievalSet.load(tmp_path / "set").retrieve(RED)
    assert found is not None and colour_of(found) == "red"


def test_a_save_that_fails_leaves_what_was_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(folder)
    built.save(tmp_path / "set")
    monkeypatch.setattr(retrieval_index_gill.ExactIndex, "write_faiss", lambda *_: 1 / 0)
    for place in ("set", "new"):
        with pytest.raises(ZeroDivisionError):
            built.save(tmp_path / place, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "set"]
    assert len(RetrievalSet.load(tmp_path / "set")) == 4
    with pytest.raises(FileExistsError, match="no retrieval set"):
        built.save(folder, overwrite=True)


def damage(place: Path, what: str) -> None:
    info = place / "retrieval_set.json"
    content = json.loads(info.read_text())
    arrow = next((place / "data").glob("*.arrow"))
    if what == "no json":
        info.unlink()
    elif what == "half a json":
        info.write_text(info.read_text()[:40])
    elif what == "another json":
        info.write_text("{}")
    elif what == "no data":
        shutil.rmtree(place / "data")
    elif what == "truncated data":
        arrow.write_bytes(arrow.read_bytes()[:-300])
    elif what == "truncated index":
        index = place / "embeddings.faiss"
        index.write_bytes(index.read_bytes()[:-10])
    else:
        content |= {"dim": {"retrieval_dim": 4}, "count": {"count": 5}, "newer": {"format_version": 99}}[what]
        info.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no json", r"retrieval_set.json is missing.*found: README.md, data"),
        ("half a json", r"retrieval_set.json is not JSON"),
        ("another json", r"retrieval_set.json does not describe"),
        ("no data", r"data is missing, expected the data set of 4 images"),
        ("truncated data", r"data could not be read"),
        ("truncated index", r"embeddings.faiss could not be read"),
        ("dim", r"set.* x 3, expected .* x 4|'embedding' holds .*expected 4"),
        ("count", r"holds 4 images, expected 5"),
        ("newer", r"format_version 99, expected 1"),
    ],
)
def test_a_damaged_set_is_refused_with_the_file_and_what_was_expected(
    folder: Path, tmp_path: Path, what: str, said: str
) -> None:
    if what == "truncated index":
        pytest.importorskip("faiss")
    build(folder).save(tmp_path / "set")
    damage(tmp_path / "set", what)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        RetrievalSet.load(tmp_path / "set")


def test_a_name_that_is_neither_folder_nor_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        RetrievalSet.load(tmp_path / "nowhere" / "set")


def test_an_index_of_another_set_is_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    build(folder).save(tmp_path / "set")
    ranked_set(["a", "b", "c", "d"]).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "embeddings.faiss", tmp_path / "set")
    with pytest.raises(ValueError, match="of another set"):
        RetrievalSet.load(tmp_path / "set")


def test_without_the_datasets_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_storage_gill, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        ranked_set(["a"])


# --- the Hub ---------------------------------------------------------------------------------------------------------


class FakeHub:
    """What push_to_hub asks of the Hub; remembers the commits."""

    def __init__(self, **_: Any) -> None:
        self.commits: list[dict[str, Any]] = []

    def create_repo(self, repo_id: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=repo_id)

    def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
        return ["README.md", "notes.txt", "data/state.json", "data/data-00000-of-00009.arrow"]

    def create_commit(self, repo_id: str, operations: list[Any], **options: Any) -> SimpleNamespace:
        kinds = {"CommitOperationAdd": "add", "CommitOperationDelete": "delete"}
        files: dict[str, list[str]] = {"add": [], "delete": []}
        for operation in operations:
            files[kinds[type(operation).__name__]].append(operation.path_in_repo)
        self.commits.append({"repo_id": repo_id, **files, **options})
        return SimpleNamespace(commit_url="https://hub/commit/1")


def test_a_push_is_one_commit_that_leaves_no_old_data_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hub = FakeHub()
    monkeypatch.setattr(retrieval_storage_gill, "HfApi", lambda **_: hub)
    assert build(folder).push_to_hub("org/set", private=True) == "https://hub/commit/1"
    (commit,) = hub.commits
    assert {"README.md", "retrieval_set.json", "data/data-00000-of-00001.arrow"} <= set(commit["add"])
    assert commit["delete"] == ["data/data-00000-of-00009.arrow"]
    assert (commit["repo_id"], commit["repo_type"]) == ("org/set", "dataset") and not caplog.records
    build(folder, embed_images=False).push_to_hub("org/set")
    assert "4 of 4 images are files on this machine" in caplog.text


def test_a_set_from_the_hub_opens_no_files_of_this_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(folder, embed_images=False).save(tmp_path / "snapshot" / "sets" / "four")
    monkeypatch.setattr(retrieval_storage_gill, "snapshot_download", lambda *_, **__: str(tmp_path / "snapshot"))
    loaded = RetrievalSet.load("org/set", subfolder="sets/four")
    with pytest.raises(ImageError, match="no such file"):
        loaded.open_image(2)
    absolute = ranked_set([str(folder / "red.png"), "../../images/red.png"], tmp_path / "snapshot" / "sets" / "four")
    absolute.save(tmp_path / "snapshot" / "sets" / "two")
    loaded = RetrievalSet.load("org/set", subfolder="sets/two")
    for index in (0, 1):
        with pytest.raises(ImageError, match="outside the retrieval set's own folder"):
            loaded.open_image(index)


def test_the_scratch_files_of_a_build_do_not_outlive_the_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    built = build(folder)
    assert len(list(scratch.iterdir())) == 1
    del built
    assert not list(scratch.iterdir())
    (folder / "broken.png").write_bytes(b"broken")
    with pytest.raises(ValueError):
        build(folder, max_errors=0)
    assert not list(scratch.iterdir())
