"""Captions of COCO and CC3M from their own file formats to results."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation_gill import caption_to_image
from evaluation_gill.captions import read_captions
from evaluation_gill.command_line import run_command
from evaluation_gill.metric_loading import load_metric
from tests.evaluation_gill.conftest import Data


def options(data: Data, out: Path, *more: str, model: Path, annotations: Path | None = None) -> list[str]:
    return [
        "--model",
        str(model),
        "--annotations",
        str(annotations or data.coco),
        "--images",
        str(data.images),
        "--out",
        str(out),
        *data.networks,
        "--steps",
        "2",
        "--size",
        "16",
        *more,
    ]


@pytest.mark.parametrize("system", ["gill", "generator"])
def test_fid_and_clip_similarity_are_those_of_the_images_written(
    data: Data, golden_repository: Path, golden_world: Path, tmp_path: Path, system: str
) -> None:
    model = golden_repository if system == "gill" else golden_world / "sd-golden"
    baseline = [] if system == "gill" else ["--baseline", "generator"]
    arguments = options(data, tmp_path / "out", *baseline, "--fid-resamples", "10", model=model)
    results = caption_to_image.main(["generation", *arguments])
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    made = [Image.open(tmp_path / "out/images" / one["image"]) for one in listed]
    texts = [one["text"] for one in listed]
    assert texts == [f"an image of thing {number}" for number in range(6)]
    true = [Image.open(data.images / f"p{number % 4}.png") for number in range(6)]
    colours = [np.stack([np.asarray(one.convert("RGB")).mean((0, 1)) / 255 for one in some]) for some in (made, true)]
    found = {figure.name: figure for figure in results.figures}
    means = np.square(colours[0].mean(0) - colours[1].mean(0)).sum()
    spread = [np.cov(one, rowvar=False) for one in colours]
    roots = np.sqrt(np.linalg.eigvals(spread[0] @ spread[1]).astype(complex)).real.sum()
    assert found["fid"].value == pytest.approx(means + np.trace(spread[0] + spread[1]) - 2 * roots, abs=1e-4)
    assert found["fid"].interval is not None
    clip = load_metric("clip_text_similarity").compute(predictions=made, references=texts, model=str(data.clip))
    assert found["clip_text_similarity"].value == pytest.approx(clip["clip_text_similarity"], abs=1e-5)


def test_clip_finds_the_images_of_captions(data: Data, tmp_path: Path) -> None:
    results = caption_to_image.main(
        ["retrieval", *options(data, tmp_path / "out", "--baseline", "clip", model=data.clip)]
    )
    assert results.protocol["candidates"] == 4 and results.figures[0].examples == 6
    assert {figure.name: figure.value for figure in results.figures}["recall@5"] == 1


def test_cc3m_captions_find_their_images_by_the_files_names(
    data: Data, tmp_path: Path, golden_repository: Path
) -> None:
    arguments = options(data, tmp_path / "out", "--sample", "3", model=golden_repository, annotations=data.cc3m)
    results = caption_to_image.main(["retrieval", *arguments])
    assert results.protocol["candidates"] == 5 and results.figures[0].examples == 3
    assert results.protocol["sample"] == "3, seed 42"


def test_one_caption_an_image_is_the_first(data: Data, tmp_path: Path) -> None:
    arguments = options(data, tmp_path / "out", "--baseline", "clip", "--one-per-image", model=data.clip)
    assert caption_to_image.main(["retrieval", *arguments]).figures[0].examples == 4


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "is not COCO's captions JSON"),
        ("a.json", '{"images": [], "annotations": []}', "holds no caption"),
        ("a.json", '{"images": [], "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]}', "KeyError"),
        ("a.tsv", "a caption without a file\n", "line 1: 1 columns, expected a caption and a file"),
        ("a.tsv", "", "holds no caption"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_captions(tmp_path / name)


def test_a_folder_without_images_is_told(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [
        "retrieval",
        "--model",
        str(data.clip),
        "--baseline",
        "clip",
        "--annotations",
        str(data.coco),
        "--images",
        str(tmp_path / "empty"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run_command(caption_to_image.main, arguments) == 2
    assert capsys.readouterr().err.endswith("empty holds no image.\n")
