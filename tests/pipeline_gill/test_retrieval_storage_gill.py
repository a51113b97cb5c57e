"""A retrieval set on disk or on the Hub is whole or not there, and says what is wrong with it."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi

from modeling_gill.image_loading_gill import ImageError
from pipeline_gill import retrieval_index_gill, retrieval_set_gill, retrieval_storage_gill
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.examples import run_example
from tests.hub_fixtures import ROOT, WRITER_TOKEN, TestHub
from tests.killing import killed_at_every_file_operation
from tests.tiny_retrieval import (
    COLOURS,
    RED,
    build,
    colour_of,
    image_server,
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
        ("no data", r"data is missing, expected the dataset of 4 images"),
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


@pytest.mark.parametrize("vector", [(9.0, 9.0, 9.0), (float("nan"), 0.0, 0.0)])
def test_one_embedding_of_another_length_among_many_is_found(folder: Path, tmp_path: Path, vector: Any) -> None:
    retrieval_set = ranked_set([f"{number}.png" for number in range(600)])
    rows = retrieval_set.dataset.to_dict()
    rows["embedding"][400] = list(vector)
    damaged = type(retrieval_set.dataset).from_dict(rows, features=retrieval_set.dataset.features)
    with pytest.raises(ValueError, match=r"embedding 400 is of length \S+, expected 1"):
        RetrievalSet(damaged, retrieval_set.info, base_dir=tmp_path)


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    run_example(RetrievalSet.load)


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
    with pytest.raises(ImportError, match=r"pip install datasets, or 'gill-multimodal\[retrieval\]'"):
        ranked_set(["a"])


# --- the Hub ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(hub_in_this_process: TestHub, monkeypatch: pytest.MonkeyPatch) -> TestHub:
    api = HfApi(endpoint=hub_in_this_process.url, token=WRITER_TOKEN)
    monkeypatch.setattr(retrieval_set_gill, "HfApi", lambda **_: api)
    return hub_in_this_process


def test_a_push_is_one_commit_that_leaves_no_old_data_behind(
    folder: Path, hub: TestHub, caplog: pytest.LogCaptureFixture
) -> None:
    build(folder).push_to_hub("org/set")
    assert not caplog.records
    api = retrieval_set_gill.HfApi()
    for name in ("data/data-00000-of-00009.arrow", "notes.txt"):
        api.upload_file(repo_id="org/set", repo_type="dataset", path_in_repo=name, path_or_fileobj=b"old")
    before = len(hub.repositories.get("datasets", "org/set").history("main"))
    assert build(folder, embed_images=False).push_to_hub("org/set").startswith(hub.url)
    history = hub.repositories.get("datasets", "org/set").history("main")
    assert len(history) == before + 1
    assert {"README.md", "retrieval_set.json", "data/data-00000-of-00001.arrow", "notes.txt"} <= set(history[0].files)
    assert "data/data-00000-of-00009.arrow" not in history[0].files
    assert "4 of 4 images are files on this machine" in caplog.text


def test_a_name_without_a_namespace_is_the_token_owners(folder: Path, hub: TestHub) -> None:
    build(folder).push_to_hub("set", private=True)
    assert hub.repositories.get("datasets", "writer/set").private


def test_a_push_that_fails_leaves_no_empty_repository(folder: Path, hub: TestHub) -> None:
    built = build(folder)
    failures = 0
    for number in range(1, 13):
        hub.fail_at(number, 400, lasting=False)
        try:
            built.push_to_hub("org/set")
        except Exception:
            failures += 1
        hub.recover()
        if hub.repositories.has("datasets", "org/set"):
            # Whole: the request that failed was none that counts.
            assert "retrieval_set.json" in hub.repositories.get("datasets", "org/set").commit("main").files
            hub.repositories.delete("datasets", "org/set")
    assert failures > 3


# --- sets of strangers -----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who has built nothing yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def become_another_user(home: Path) -> None:
    (home / "gill" / "signing_key").unlink()


@pytest.mark.usefixtures("home")
def test_a_set_from_the_hub_opens_no_files_of_this_machine(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if this user built it: elsewhere its relative paths name other files."""
    snapshot = tmp_path / "snapshot"
    build(folder, embed_images=False).save(snapshot / "four")
    ranked_set([str(folder / "red.png"), "../../images/red.png"], snapshot / "two").save(snapshot / "two")
    monkeypatch.setattr(
        retrieval_set_gill, "download_folder", lambda _, *, subfolder, **__: (snapshot / subfolder, "0123")
    )
    with pytest.raises(ImageError, match="no such file"):
        RetrievalSet.load("org/set", subfolder="four").open_image(2)
    loaded = RetrievalSet.load("org/set", subfolder="two")
    for index in (0, 1):
        with pytest.raises(ImageError, match="outside the retrieval set's own folder"):
            loaded.open_image(index)


def test_only_the_user_who_built_a_set_opens_files_outside_of_it(folder: Path, tmp_path: Path, home: Path) -> None:
    build(folder, embed_images=False).save(tmp_path / "set")
    assert RetrievalSet.load(tmp_path / "set").open_image(2).getpixel((0, 0)) == COLOURS["red"]
    assert stat.S_IMODE((home / "gill/signing_key").stat().st_mode) == 0o600
    become_another_user(home)
    with pytest.raises(ImageError, match="allow_outside_files=True"):
        RetrievalSet.load(tmp_path / "set").open_image(2)
    assert RetrievalSet.load(tmp_path / "set", allow_outside_files=True).open_image(2).size == (6, 4)
    # What a stranger's set may not do, a copy of it may not do either.
    RetrievalSet.load(tmp_path / "set").save(tmp_path / "copy")
    with pytest.raises(ImageError, match="allow_outside_files=True"):
        RetrievalSet.load(tmp_path / "copy").open_image(2)
    RetrievalSet.load(tmp_path / "set", allow_outside_files=True).save(tmp_path / "copy", overwrite=True)
    assert RetrievalSet.load(tmp_path / "copy").open_image(2).size == (6, 4)


def test_a_signature_is_for_the_paths_that_were_signed(folder: Path, tmp_path: Path, home: Path) -> None:
    build(folder, embed_images=False).save(tmp_path / "set")
    ranked_set([str(folder / "red.png")] * 4).save(tmp_path / "other")
    signature = json.loads((tmp_path / "set/retrieval_set.json").read_text())["signature"]
    content = json.loads((tmp_path / "other/retrieval_set.json").read_text())
    (tmp_path / "other/retrieval_set.json").write_text(json.dumps({**content, "signature": signature}))
    with pytest.raises(ImageError, match="outside"):
        RetrievalSet.load(tmp_path / "other").open_image(0)


def strangers_set(place: Path, home: Path, paths: list[str]) -> RetrievalSet:
    ranked_set(paths, place).save(place)
    become_another_user(home)
    return RetrievalSet.load(place)


def test_a_strangers_set_opens_only_what_lies_in_it(folder: Path, tmp_path: Path, home: Path) -> None:
    outside = ["../images/red.png", str(folder / "red.png"), "inside/../../images/red.png", "linked.png", "up/red.png"]
    outside += [f"file://{folder}/red.png", "//host/share/red.png", "a\0b.png", "zip://red.png::" + str(folder)]
    place = tmp_path / "set"
    loaded = strangers_set(place, home, [*outside, "inside/red.png"])
    (place / "inside").mkdir()
    shutil.copy(folder / "red.png", place / "inside")
    (place / "linked.png").symlink_to(folder / "red.png")
    (place / "up").symlink_to(folder)
    for index in range(len(outside)):
        with pytest.raises(ImageError, match=r"outside|no such file|no file has"):
            loaded.open_image(index)
    assert loaded.open_image(len(outside)).getpixel((0, 0)) == COLOURS["red"]


def test_a_strangers_set_fetches_no_address_of_the_network_that_this_machine_is_in(
    folder: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with image_server((folder / "red.png").read_bytes()) as server:
        ranked_set([f"{server.url}/red.png"]).save(tmp_path / "set")
        own = RetrievalSet.load(tmp_path / "set")
        become_another_user(home)
        with pytest.raises(ImageError):
            RetrievalSet.load(tmp_path / "set").open_image(0)
        assert not server.asked
    del own


def test_a_strangers_faiss_index_is_not_read(folder: Path, tmp_path: Path, home: Path) -> None:
    """faiss does not check what it reads."""
    faiss = pytest.importorskip("faiss")
    build(folder).save(tmp_path / "set")
    faiss.write_index(faiss.IndexFlatL2(3), str(tmp_path / "set/embeddings.faiss"))
    with pytest.raises(ValueError, match=r"IndexFlatL2.*no other index is exact; delete the file"):
        RetrievalSet.load(tmp_path / "set")
    become_another_user(home)
    found = RetrievalSet.load(tmp_path / "set").retrieve(RED)
    assert found is not None and colour_of(found) == "red"


def test_images_within_a_set_go_along_when_it_is_saved_elsewhere(folder: Path, tmp_path: Path, home: Path) -> None:
    place = tmp_path / "set"
    loaded = strangers_set(place, home, ["inside/red.png", str(folder / "green.png")])
    (place / "inside").mkdir()
    shutil.copy(folder / "red.png", place / "inside")
    loaded.save(tmp_path / "far" / "away" / "copy")
    shutil.rmtree(place)
    copy = RetrievalSet.load(tmp_path / "far" / "away" / "copy")
    assert copy.open_image(0).getpixel((0, 0)) == COLOURS["red"]
    with pytest.raises(ImageError, match="outside"):
        copy.open_image(1)


@pytest.mark.usefixtures("home")
def test_links_of_the_hubs_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "datasets--org--set"
    place, blobs = repository / "snapshots/0123/retrieval_set", repository / "blobs"
    build(folder).save(place)
    blobs.mkdir()
    for number, path in enumerate([*place.rglob("*")]):
        if path.is_file():
            path.rename(blobs / str(number))
            path.symlink_to(os.path.relpath(blobs / str(number), path.parent))
    assert len(RetrievalSet.load(place)) == 4


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data/state.json", {"_data_files": [{"filename": "../../other/data/data-00000-of-00001.arrow"}]}, "beside it"),
        ("data/state.json", {"_data_files": [{"filename": "/etc/passwd"}]}, "beside it"),
        ("data/state.json", {"_data_files": []}, "names no files"),
        ("data/state.json", [], "holds a list"),
        ("retrieval_set.json", {"count": True}, "'count': True, expected int"),
        ("retrieval_set.json", {"count": -1}, "expected at least 1"),
        ("retrieval_set.json", {"retrieval_dim": 10**12}, "expected at least 1 of length 1 to 65536"),
        ("retrieval_set.json", {"source": ["x"]}, "'source': .*expected str"),
        ("retrieval_set.json", {"created_with": "x"}, "'created_with': .*expected dict"),
        ("retrieval_set.json", {"base_dir": None}, "'base_dir': None, expected str"),
    ],
)
def test_hostile_descriptions_are_refused_and_the_file_is_named(
    folder: Path, tmp_path: Path, name: str, content: Any, said: str
) -> None:
    build(folder).save(tmp_path / "set")
    path = tmp_path / "set" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **content} if content else content))
    if content == {"_data_files": []}:
        path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{path.name}.*{said}"):
        RetrievalSet.load(tmp_path / "set")


def test_nested_and_huge_json_is_refused(folder: Path, tmp_path: Path) -> None:
    build(folder).save(tmp_path / "set")
    path = tmp_path / "set/retrieval_set.json"
    for text in ("[" * 100_000, '{"count": ' + "9" * 5000 + "}", " " * 5_000_000):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"retrieval_set\.json"):
            RetrievalSet.load(tmp_path / "set")


def test_a_dataset_that_is_a_link_out_of_the_set_is_refused(folder: Path, tmp_path: Path) -> None:
    build(folder).save(tmp_path / "private")
    build(folder).save(tmp_path / "set")
    arrow = next((tmp_path / "set/data").glob("*.arrow"))
    arrow.unlink()
    arrow.symlink_to(next((tmp_path / "private/data").glob("*.arrow")))
    with pytest.raises(ValueError, match="outside of the retrieval set"):
        RetrievalSet.load(tmp_path / "set")


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_at_any_instant_a_saved_set_is_the_old_one_or_the_new_one(folder: Path, tmp_path: Path) -> None:
    old, new = build(folder, source="old"), ranked_set(["a", "b"])
    place = tmp_path / "all" / "set"
    old.save(place)
    found = []
    for number in killed_at_every_file_operation(lambda: new.save(place, overwrite=True)):
        loaded = RetrievalSet.load(place)
        assert (len(loaded), loaded.info.source) in ((4, "old"), (2, "")), f"operation {number}"
        found.append(len(loaded))
        old.save(place, overwrite=True)
        assert os.listdir(place.parent) == ["set"]
    assert set(found) == {2, 4}


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
