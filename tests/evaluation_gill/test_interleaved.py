"""Instructed documents, answered with texts and images in turn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import GenerationConfig

from evaluation_gill import Results, evaluate
from evaluation_gill.documents import read_documents
from evaluation_gill.systems import GillSystem
from gill.cli import main
from pipeline_gill import GillPipeline
from tests.evaluation_gill.conftest import Data, values

NUM_IMAGES = [2, 1, 3]


def document(number: int, images: list[int]) -> dict[str, Any]:
    infos = [{"image_name": f"p{image}.png", "matched_text_index": place} for place, image in enumerate(images)]
    return {
        "instruction": f"Tell the story of thing {number}.",
        "text_list": [f"sentence {place} ." for place in range(len(images) + 1)],
        "image_info": infos[::-1],
    }


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    path = tmp_path / "mmc4_instruct.json"
    path.write_text(json.dumps([document(0, [0, 1]), document(1, [2]), document(2, [3, 4, 5])]))
    return path


@pytest.fixture
def fluent(monkeypatch: pytest.MonkeyPatch, dream_repository: Path) -> Path:
    """The converted DreamLLM, whose random weights are made to open an image after every few words."""
    load = GillPipeline.from_pretrained

    def loaded(*args: Any, **kwargs: Any) -> GillPipeline:
        pipeline = load(*args, **kwargs)
        config = pipeline.model.generation_config.to_dict()
        bias = {"sequence_bias": [[[pipeline.model.config.opening_token_id], 2.0]], "eos_token_id": None}
        pipeline.model.generation_config = GenerationConfig(**{**config, **bias})
        return pipeline

    monkeypatch.setattr(GillPipeline, "from_pretrained", loaded)
    return dream_repository


def interleaved(data: Data, annotations: Path, out: Path, model: Path, **fields: Any) -> Results:
    networks = {name: data.networks[name] for name in ("inception", "inception_sha256")}
    options = {"num_inference_steps": 1, "max_new_tokens": 8, "fid_resamples": 0, "images": data.images, **networks}
    return evaluate("interleaved", annotations=annotations, out=out, model=str(model), **{**options, **fields})


def images_of(out: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)).astype(int) for path in sorted((out / "images").iterdir())}


def frechet(first: list[Path], second: list[Path]) -> float:
    colours = [
        np.stack([np.asarray(Image.open(one).convert("RGB")).mean((0, 1)) / 255 for one in some])
        for some in (first, second)
    ]
    spread = [np.cov(one, rowvar=False) for one in colours]
    roots = np.sqrt(np.linalg.eigvals(spread[0] @ spread[1]).astype(complex)).real.sum()
    return np.square(colours[0].mean(0) - colours[1].mean(0)).sum() + np.trace(spread[0] + spread[1]) - 2 * roots


def test_fid_is_that_of_all_images_drawn_and_all_images_of_the_documents(
    data: Data, documents: Path, fluent: Path, tmp_path: Path
) -> None:
    results = interleaved(data, documents, tmp_path / "out", fluent, max_new_tokens=24, fid_resamples=3)
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    drawn = [tmp_path / "out/images" / name for one in listed for name in one["images"]]
    assert len(drawn) >= 2 and all(len(one["images"]) <= most for one, most in zip(listed, NUM_IMAGES, strict=True))
    assert any(isinstance(piece, str) and piece not in one["images"] for one in listed for piece in one["answer"])
    assert values(results)["fid"] == pytest.approx(
        frechet(drawn, [data.images / f"p{number}.png" for number in range(6)]), abs=1e-4
    )
    assert values(results)["images_per_document"] == pytest.approx(len(drawn) / 3)
    assert [metric.examples for metric in results.metrics] == [len(drawn), 3]
    assert results.metrics[0].interval is not None
    assert (results.protocol["images"], results.protocol["examples"]) == (6, 3)
    assert Results.read(tmp_path / "out").metrics == results.metrics


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_same_images_and_another_batch_size(
    data: Data, documents: Path, fluent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = GillSystem.write_documents
    calls = []

    def stopping(self: Any, requests: Any, *args: Any) -> Any:
        calls.append([request.instruction for request in requests])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(self, requests, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GillSystem, "write_documents", stopping)
        interleaved(data, documents, tmp_path / "out", fluent, batch_size=1)
    whole = interleaved(data, documents, tmp_path / "whole", fluent, batch_size=3)
    resumed = interleaved(data, documents, tmp_path / "out", fluent, batch_size=2)
    assert [call[0][-2:] for call in calls] == ["0.", "1."]
    found, expected = images_of(tmp_path / "out"), images_of(tmp_path / "whole")
    assert found.keys() == expected.keys()
    assert all(np.abs(found[name] - expected[name]).max() <= 1 for name in expected)
    assert values(resumed) == pytest.approx(values(whole), abs=1e-3)
    with pytest.raises(ValueError, match="another protocol: max_images was"):
        interleaved(data, documents, tmp_path / "out", fluent, max_images=1)


def test_the_baseline_draws_the_images_of_a_document_from_its_own_texts(
    data: Data, documents: Path, golden_world: Path, tmp_path: Path
) -> None:
    model = golden_world / "sd-golden"
    results = interleaved(data, documents, tmp_path / "out", model, baseline="generator", size=16, sample=3)
    assert values(results)["images_per_document"] == 2
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    assert sorted(one["example"] for one in listed) == ["0", "1", "2"]
    first = next(one for one in listed if one["example"] == "0")
    assert first["answer"][::2] == ["sentence 0 .", "sentence 1 ."]


def test_a_document_without_an_image_ends_the_run_or_is_left_out(
    data: Data, documents: Path, golden_world: Path, tmp_path: Path
) -> None:
    content = [*json.loads(documents.read_text()), document(3, []), document(4, [77])]
    documents.write_text(json.dumps(content))
    options = {"model": golden_world / "sd-golden", "baseline": "generator", "size": 16}
    with pytest.raises(ValueError, match=r"document 3: it has no image \(2 of 5"):
        interleaved(data, documents, tmp_path / "out", **options)
    results = interleaved(data, documents, tmp_path / "out", **options, leave_out_incomplete=True)
    assert [one.example for one in results.left_out] == ["document 3", "document 4"]
    assert "p77.png" in results.left_out[1].reason


def test_answers_without_images_have_no_fid_and_are_kept(
    data: Data, documents: Path, dream_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GillSystem, "write_documents", lambda self, requests, *args: [["once"] for _ in requests])
    with pytest.raises(ValueError, match="0 images were drawn"):
        interleaved(data, documents, tmp_path / "out", dream_repository)
    assert len(list((tmp_path / "out/documents").iterdir())) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no list"),
        ("[1]", "document 0 is no instructed document"),
        ('[{"instruction": "a", "text_list": ["a"]}]', "KeyError"),
        ('[{"instruction": " ", "text_list": [], "image_info": []}]', "`instruction` is empty"),
        (
            '[{"instruction": "a", "text_list": ["a"], "image_info": [{"image_name": "a", "matched_text_index": 1}]}]',
            "index of one of its texts",
        ),
        (
            '[{"instruction": "a", "text_list": ["a"], "image_info": [{"image_name": 3, "matched_text_index": 0}]}]',
            "not the name of a file",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_documents(tmp_path / "a.json")


def test_two_images_of_one_sentence_have_the_same_text(tmp_path: Path) -> None:
    infos = [{"image_name": name, "matched_text_index": index} for name, index in (("b", 2), ("a", 1), ("c", 2))]
    content = [{"instruction": "x", "text_list": [" one ", "two", "three"], "image_info": infos}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    [found] = read_documents(tmp_path / "a.json")
    assert found.images == ("a", "b", "c")
    assert found.texts == ("one two", "three", "three")


def test_the_command_names_a_baseline_that_draws_nothing(
    data: Data, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = ["--inception", data.networks["inception"], "--inception-sha256", data.networks["inception_sha256"]]
    files = ["--annotations", str(documents), "--images", str(data.images), "--out", str(tmp_path / "out")]
    assert main(["evaluate", "interleaved", "--baseline", "clip", "--model", str(data.clip), *files, *networks]) == 2
    assert "generates no images" in capsys.readouterr().err
