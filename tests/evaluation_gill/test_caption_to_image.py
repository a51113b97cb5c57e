"""Captions of COCO and CC3M from their own file formats to results."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation_gill import Results, evaluate
from evaluation_gill.captions import read_captions
from evaluation_gill.metric_loading import load_metric
from gill.cli import main
from tests.evaluation_gill.conftest import Data, options_of, values


@pytest.mark.parametrize("system", ["gill", "generator"])
def test_fid_and_clip_similarity_are_those_of_the_images_written(
    data: Data, golden_repository: Path, golden_world: Path, tmp_path: Path, system: str
) -> None:
    model = golden_repository if system == "gill" else golden_world / "sd-golden"
    baseline = None if system == "gill" else "generator"
    options = options_of(data, data.coco, tmp_path / "out", model=str(model), baseline=baseline, fid_resamples=10)
    results = evaluate("caption-to-image", mode="generation", **options)
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    made = [Image.open(tmp_path / "out/images" / one["image"]) for one in listed]
    texts = [one["text"] for one in listed]
    assert texts == [f"an image of thing {number}" for number in range(6)]
    true = [Image.open(data.images / f"p{number % 4}.png") for number in range(6)]
    colours = [np.stack([np.asarray(one.convert("RGB")).mean((0, 1)) / 255 for one in some]) for some in (made, true)]
    means = np.square(colours[0].mean(0) - colours[1].mean(0)).sum()
    spread = [np.cov(one, rowvar=False) for one in colours]
    roots = np.sqrt(np.linalg.eigvals(spread[0] @ spread[1]).astype(complex)).real.sum()
    found = {metric.name: metric for metric in results.metrics}
    assert found["fid"].value == pytest.approx(means + np.trace(spread[0] + spread[1]) - 2 * roots, abs=1e-4)
    assert found["fid"].interval is not None
    clip = load_metric("clip_text_similarity").compute(predictions=made, references=texts, model=str(data.clip))
    assert found["clip_text_similarity"].value == pytest.approx(clip["clip_text_similarity"], abs=1e-5)


def test_of_several_samples_the_one_closest_to_the_text_is_measured(
    data: Data, golden_world: Path, tmp_path: Path
) -> None:
    fields = {"model": str(golden_world / "sd-golden"), "baseline": "generator", "fid_resamples": 0, "limit": 3}
    options = options_of(data, data.coco, tmp_path / "out", samples=3, **fields)
    results = evaluate("caption-to-image", mode="generation", **options)
    assert results.protocol["samples"] == 3
    assert results.protocol["picked_by"]["metric"] == "clip_text_similarity"
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    texts = [one["text"] for one in listed]
    scores = []
    for sample in range(3):
        made = sorted((tmp_path / f"out/sample-{sample}/images").iterdir())
        clip = load_metric("clip_text_similarity").compute(
            predictions=[str(path) for path in made], references=texts, model=str(data.clip)
        )
        scores.append(clip["scores"])
    for number, one in enumerate(listed):
        best = max(range(3), key=lambda sample: scores[sample][number])
        assert one["image"].startswith(f"sample-{best}/images/")
        assert one["clip_text_similarity"] == pytest.approx(scores[best][number], abs=1e-5)
    # Each sample is the run of its own seed.
    alone = options_of(data, data.coco, tmp_path / "alone", seed=44, **fields)
    evaluate("caption-to-image", mode="generation", **alone)
    for path in (tmp_path / "alone/images").iterdir():
        assert path.read_bytes() == (tmp_path / "out/sample-2/images" / path.name).read_bytes()


def retrieve(data: Data, out: Path, annotations: Path | None = None, **fields: object) -> Results:
    options = {"baseline": "clip", "model": str(data.clip), **fields}
    return evaluate("caption-to-image", mode="retrieval", **options_of(data, annotations or data.coco, out, **options))


def test_clip_finds_the_images_of_captions(data: Data, tmp_path: Path) -> None:
    results = retrieve(data, tmp_path / "out")
    assert results.protocol["candidates"] == 4 and results.metrics[0].examples == 6
    assert values(results)["recall@5"] == 1


def test_cc3m_captions_find_their_images_by_the_files_names(
    data: Data, tmp_path: Path, golden_repository: Path
) -> None:
    model = {"baseline": None, "model": str(golden_repository)}
    results = retrieve(data, tmp_path / "out", data.cc3m, sample=3, **model)
    assert results.protocol["candidates"] == 5 and results.metrics[0].examples == 3
    assert results.protocol["sample"] == "3, seed 42"


def test_one_caption_an_image_is_the_first(data: Data, tmp_path: Path) -> None:
    assert retrieve(data, tmp_path / "out", one_per_image=True).metrics[0].examples == 4


def test_more_captions_than_there_are_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sample of 7 is more than the 6 captions"):
        retrieve(data, tmp_path / "out", sample=7)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "no JSON"),
        ("a.json", '{"images": [], "annotations": []}', "holds no caption"),
        ("a.json", '{"images": [], "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]}', "KeyError"),
        ("a.json", '{"images": [{"id": 2, "file_name": "a"}], "annotations": [{"id": 1, "image_id": 2}]}', "KeyError"),
        ("a.tsv", "a caption without a file\n", "line 1: 1 fields, expected 2"),
        ("a.tsv", "a caption\t\n", "line 1: "),
        ("a.tsv", "", "holds no caption"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name)


@pytest.mark.parametrize("header", ["", "caption\timage\n"])
def test_a_tsv_may_have_a_header_a_byte_order_mark_and_unusual_separators(tmp_path: Path, header: str) -> None:
    (tmp_path / "a.tsv").write_bytes(
        f"{header}a\u2028red\rcar\timages/a.png\nb\thttps://a.org/x/b%20c.png?s=1\n".encode("utf-8-sig")
    )
    found = read_captions(tmp_path / "a.tsv")
    assert [(one.text, one.image) for one in found] == [("a\u2028red\rcar", "images/a.png"), ("b", "b c.png")]


def test_a_folder_without_images_is_named(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    files = ["--annotations", str(data.coco), "--images", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "caption-to-image", "retrieval", "--model", "any", *files]) == 2
    assert capsys.readouterr().err.endswith("empty holds no image.\n")
