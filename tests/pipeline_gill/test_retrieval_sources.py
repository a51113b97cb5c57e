"""A retrieval set of what users have: folders, lists of URLs, TSVs, datasets; mistakes are one line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gill.cli import main
from modeling_gill.fingerprint_gill import fingerprint_name
from pipeline_gill import (
    RetrievalSetOptions,
    build_retrieval_set,
    retrieval_images_gill,
    retrieval_sources,
    retrieval_storage_gill,
)
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.examples import run_example
from tests.tiny_retrieval import COLOURS, FINGERPRINT, RED, TINY_PROCESSOR, TinyModel, colour_of, image_server, paint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "*")
    retrieval_images_gill.url_cache.clear()
    with image_server((folder / "red.png").read_bytes()) as running:
        yield running


@pytest.fixture
def tiny_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_sources, "load_image_encoder", lambda _: (TinyModel(), TINY_PROCESSOR))


def run(*arguments: Any) -> int:
    return main(["index", "--model", "tiny", *map(str, arguments)])


@pytest.mark.usefixtures("tiny_command")
def test_the_command_builds_from_folder_urls_tsv_and_data_set(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: Any
) -> None:
    (tmp_path / "urls.txt").write_text(f"# images\n{server.url}/red.png\n\nimages/green.png\n{server.url}/none.png\n")
    (tmp_path / "plain.tsv").write_text('a "red one\tred.png\nan unreadable one\tgone.png\n')
    (tmp_path / "header.tsv").write_text("id\ttitle\timage\n7\tred\timages/red.png\n")
    (tmp_path / "usual.tsv").write_text("caption\timage\nred\timages/red.png\n")
    retrieval_storage_gill.require_datasets().Dataset.from_dict(
        {"image": [{"bytes": (folder / "red.png").read_bytes(), "path": None}], "text": [["a red one", "another"]]},
        features=None,
    ).save_to_disk(str(tmp_path / "rows"))
    sources = {
        "folder": ["--folder", folder],
        "urls": ["--urls", tmp_path / "urls.txt"],
        "plain": ["--tsv", tmp_path / "plain.tsv", "--image-root", folder, "--no-embed-images"],
        "header": ["--tsv", tmp_path / "header.tsv", "--image-column", "image", "--caption-column", "title"],
        "usual": ["--tsv", tmp_path / "usual.tsv"],
        "dataset": ["--dataset", tmp_path / "rows", "--caption-column", "text"],
    }
    expected = {
        "folder": (4, None),
        "urls": (2, None),
        "plain": (1, 'a "red one'),
        "header": (1, "red"),
        "usual": (1, "red"),
        "dataset": (1, "a red one"),
    }
    for name, arguments in sources.items():
        assert run("--out", tmp_path / name, *arguments) == 0
        found = RetrievalSet.load(tmp_path / name).retrieve(RED)
        assert found is not None and colour_of(found) == "red", name
        assert (len(RetrievalSet.load(tmp_path / name)), found.caption) == expected[name]
        said = capsys.readouterr().out
        assert f"{expected[name][0]} images, {int(name in ('urls', 'plain'))} skipped" in said
        assert str(tmp_path / name) in said and fingerprint_name(FINGERPRINT) in said


@pytest.mark.usefixtures("tiny_command")
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "photographs")
    monkeypatch.chdir(tmp_path)
    run_example(build_retrieval_set)
    assert len(RetrievalSet.load("my_set")) == 4


@pytest.mark.usefixtures("tiny_command")
def test_mistakes_are_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "header.tsv").write_text("caption\timage\nred\tred.png\n")
    (tmp_path / "short.tsv").write_text("red\timages/red.png\nonly a caption\n")
    (tmp_path / "empty").mkdir()
    header = ["--tsv", tmp_path / "header.tsv"]
    for arguments, said in (
        (["--folder", tmp_path / "empty"], "no image in it"),
        (["--folder", tmp_path / "nowhere"], "not a folder"),
        (["--urls", tmp_path / "nowhere.txt"], "nowhere.txt"),
        ([*header, "--image-column", "url"], "columns ['caption', 'image'], expected 'url'"),
        (["--tsv", tmp_path / "short.tsv"], "short.tsv, line 2: 1 fields"),
        (header, "no image to retrieve"),
        ([], "exactly one of folder, urls, tsv, dataset, got none"),
        ([*header, "--folder", folder], "exactly one of folder, urls, tsv, dataset, got folder, tsv"),
        (["--folder", folder, "--timeout", "0"], "`timeout` is 0"),
    ):
        assert run("--out", tmp_path / "set", *arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.splitlines()[-1].startswith("error: "), error
        assert not [path for path in tmp_path.iterdir() if "set" in path.name]
    assert run("--out", folder, "--folder", folder) == 2
    assert "no retrieval set" in capsys.readouterr().err


@pytest.mark.usefixtures("tiny_command")
def test_bad_images_of_every_kind_are_left_out(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "caf\u00e9%20.png").write_bytes(b"no image")
    (folder / "cafe\u0301 .png").write_bytes(b"no image")
    Image.new("RGB", (2, 2)).save(folder / "black.png")
    rows = ["red.png", "gone.png", "", "black.png", "caf\u00e9 .png", "http://127.0.0.1:1/dead.png", "file:///x.png"]
    rows += ["x" * 5000 + ".png", "~nobody/x.png", "https://[x.png"]
    (tmp_path / "all.tsv").write_text("".join(f"caption {row}\t{row}\n" for row in ["green.png", *rows]))
    built = build_retrieval_set(model="tiny", tsv=tmp_path / "all.tsv", image_root=folder, out=str(tmp_path / "set"))
    assert (len(built), built.info.skipped) == (2, 9)
    assert built.dataset["path"][:] == ["green.png", "red.png"]
    assert "zero, NaN or infinite: black.png" in caplog.text and "gone.png" in caplog.text
    with pytest.raises(ValueError, match=r"More than 2 images \(`max_errors`\)"):
        build_retrieval_set(
            RetrievalSetOptions(
                model="tiny", tsv=tmp_path / "all.tsv", image_root=folder, out=tmp_path / "two", max_errors=2
            )
        )


@pytest.mark.usefixtures("tiny_command")
def test_an_image_that_the_processor_cannot_take_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = TINY_PROCESSOR.image_processor

    def refuse_green(images: Any, **options: Any) -> Any:
        if images[0].getpixel((0, 0)) == COLOURS["green"]:
            raise IndexError("tuple index out of range")
        return prepare(images=images, **options)

    monkeypatch.setattr(TINY_PROCESSOR, "image_processor", refuse_green, raising=False)
    assert len(build_retrieval_set(model="tiny", folder=folder, out=tmp_path / "set")) == 3


def test_the_language_model_is_not_loaded_to_embed_images(golden_repository, golden_world, tmp_path, monkeypatch):
    from transformers import OPTForCausalLM

    from pipeline_gill import GillPipeline

    monkeypatch.setattr(OPTForCausalLM, "from_pretrained", lambda *args, **kwargs: pytest.fail("it was loaded"))
    build_retrieval_set(model=str(golden_repository), folder=golden_world / "pictures", out=tmp_path / "set")
    monkeypatch.undo()
    pipe = GillPipeline.from_pretrained(golden_repository)
    pipe.load_retrieval_set(tmp_path / "set")
    assert len(pipe.retrieval_set) == 24


@pytest.mark.usefixtures("tiny_command")
@pytest.mark.parametrize("name", ["x" * 5000 + ".png", "~nobody/x.png", "a\0b.png", "", "\ud800.png"])
def test_names_that_no_file_can_have_are_left_out(folder: Path, tmp_path: Path, name: str) -> None:
    for embed_images in (True, False):
        built = RetrievalSet.build(
            TinyModel(),
            TINY_PROCESSOR,
            [(name, None), (folder / "red.png", None)],
            embed_images=embed_images,
            progress=False,
        )
        assert (len(built), built.info.skipped) == (1, 1)
