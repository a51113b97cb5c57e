"""The command makes a retrieval set of what users have, and tells mistakes in a line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modeling_gill.fingerprint_gill import fingerprint_name
from pipeline_gill import build_retrieval_set as command
from pipeline_gill import retrieval_set_gill, retrieval_storage_gill
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.tiny_retrieval import FINGERPRINT, RED, TINY_PROCESSOR, TinyModel, colour_of, image_server, paint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "*")
    retrieval_set_gill._opened_urls.clear()
    with image_server((folder / "red.png").read_bytes()) as running:
        yield running


@pytest.fixture
def tiny_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_load_model", lambda _: (TinyModel(), TINY_PROCESSOR))


def run(*arguments: Any) -> None:
    command.main(["--model", "tiny", *map(str, arguments)])


@pytest.mark.usefixtures("tiny_command")
def test_the_command_builds_from_folder_urls_tsv_and_data_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Any
) -> None:
    (tmp_path / "urls.txt").write_text(f"# images\n{server.url}/red.png\n\nimages/green.png\n{server.url}/none.png\n")
    (tmp_path / "plain.tsv").write_text('a "red one\tred.png\nan unreadable one\tgone.png\n')
    (tmp_path / "header.tsv").write_text("id\ttitle\timage\n7\tred\timages/red.png\n")
    retrieval_storage_gill.require_datasets().Dataset.from_dict(
        {"image": [{"bytes": (folder / "red.png").read_bytes(), "path": None}], "text": [["a red one", "another"]]},
        features=None,
    ).save_to_disk(str(tmp_path / "rows"))
    sources = {
        "folder": ["--folder", folder],
        "urls": ["--urls", tmp_path / "urls.txt"],
        "plain": ["--tsv", tmp_path / "plain.tsv", "--image-root", folder, "--no-embed-images"],
        "header": ["--tsv", tmp_path / "header.tsv", "--image-column", "image", "--caption-column", "title"],
        "dataset": ["--dataset", tmp_path / "rows", "--caption-column", "text"],
    }
    expected = {
        "folder": (4, None),
        "urls": (2, None),
        "plain": (1, 'a "red one'),
        "header": (1, "red"),
        "dataset": (1, "a red one"),
    }
    for name, arguments in sources.items():
        run("--out", tmp_path / name, *arguments)
        found = RetrievalSet.load(tmp_path / name).retrieve(RED)
        assert found is not None and colour_of(found) == "red", name
        assert (len(RetrievalSet.load(tmp_path / name)), found.caption) == expected[name]
        said = capsys.readouterr().out
        assert f"{expected[name][0]} images, {int(name in ('urls', 'plain'))} skipped" in said
        assert str(tmp_path / name) in said and fingerprint_name(FINGERPRINT) in said


@pytest.mark.usefixtures("tiny_command")
def test_the_command_tells_mistakes_in_a_line_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "header.tsv").write_text("caption\timage\nred\tred.png\n")
    (tmp_path / "short.tsv").write_text("red\timages/red.png\nonly a caption\n")
    (tmp_path / "empty").mkdir()
    header = ["--tsv", tmp_path / "header.tsv"]
    for arguments, said in (
        (["--folder", tmp_path / "empty"], "no image in it"),
        (["--folder", tmp_path / "nowhere"], "not a folder"),
        (["--urls", tmp_path / "nowhere.txt"], "nowhere.txt"),
        (header, "looks like a header"),
        ([*header, "--image-column", "url"], "columns ['caption', 'image'], expected 'url'"),
        (["--tsv", tmp_path / "short.tsv"], "line 2: 1 columns"),
        ([*header, "--image-column", "image"], "no image to retrieve"),
    ):
        with pytest.raises(SystemExit) as ending:
            run("--out", tmp_path / "set", *arguments)
        assert said in str(ending.value), ending.value
        assert not [path for path in tmp_path.iterdir() if "set" in path.name]
    with pytest.raises(SystemExit, match="no retrieval set"):
        run("--out", folder, "--folder", folder)


def test_the_language_model_is_not_loaded_to_embed_images(golden_repository, golden_world, tmp_path, monkeypatch):
    from transformers import OPTForCausalLM

    from pipeline_gill import GillPipeline

    monkeypatch.setattr(OPTForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    arguments = ["--model", str(golden_repository), "--folder", str(golden_world / "pictures")]
    command.main([*arguments, "--out", str(tmp_path / "set")])
    monkeypatch.undo()
    pipe = GillPipeline.from_pretrained(golden_repository)
    pipe.load_retrieval_set(tmp_path / "set")
    assert len(pipe.retrieval_set) == 24
