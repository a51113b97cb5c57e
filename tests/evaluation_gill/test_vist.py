"""Visual Storytelling from its own file format to results, with GILL and with both baselines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_gill import Results, evaluate
from evaluation_gill.metric_loading import load_metric
from evaluation_gill.systems import ClipBaseline, GillSystem
from gill.cli import main
from pipeline_gill import GillPipeline
from tests.evaluation_gill.conftest import SENTENCES, STORIES, Data, options_of, values, vist_annotations


def run(data: Data, mode: str, out: Path, annotations: Path | None = None, **fields: Any) -> Results:
    return evaluate("vist", mode=mode, **options_of(data, annotations or data.vist, out, **fields))


def shown(data: Data, name: str) -> Image.Image:
    return Image.open(data.images / f"{name}.png").convert("RGB")


@pytest.fixture(scope="module")
def generated(data: Data, golden_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    out = tmp_path_factory.mktemp("vist") / "out"
    return out, run(data, "generation", out, batch_size=2, model=str(golden_repository))


def test_gill_draws_the_last_image_of_each_story_as_the_pipeline_does_one_by_one(
    data: Data, generated: tuple[Path, Results], golden_pipeline: GillPipeline
) -> None:
    out, results = generated
    generator = torch.Generator().manual_seed(42)
    made = []
    for _, names in STORIES:
        pieces: list[Any] = []
        for sentence, name in zip(SENTENCES, names, strict=True):
            pieces += [sentence, shown(data, name).resize((224, 224))]
        answer: Any = golden_pipeline(
            [pieces[:-1]],
            decision="generate",
            force_image=True,
            generator=generator,
            height=16,
            width=16,
            num_inference_steps=2,
        )
        made.append(answer.images[0])
    for wanted, path in zip(made, sorted((out / "images").iterdir()), strict=True):
        assert np.abs(np.asarray(wanted, dtype=int) - np.asarray(Image.open(path), dtype=int)).max() <= 1
    true = [shown(data, names[-1]) for _, names in STORIES]
    clip = load_metric("clip_image_similarity").compute(predictions=made, references=true, model=str(data.clip))
    found = {metric.name: metric for metric in results.metrics}
    assert found["clip_image_similarity"].value == pytest.approx(clip["clip_image_similarity"], abs=1e-3)
    low, high = found["clip_image_similarity"].interval or (0, 0)
    assert min(clip["scores"]) - 1e-3 <= low <= found["clip_image_similarity"].value <= high
    assert found["lpips"].value > 0 and found["lpips"].examples == 3


def test_results_carry_their_protocol(generated: tuple[Path, Results]) -> None:
    out, results = generated
    protocol = Results.read(out).protocol
    assert protocol["data"] == "VIST" and protocol["examples"] == 3 and protocol["seed"] == 42
    assert protocol["context"] == "all captions and all images but the last"
    assert protocol["drawing"] == {"steps": 2, "guidance": 7.5, "size": 16}
    assert protocol["seeding"] == "one generator for the whole run" and len(protocol["annotations_sha256"]) == 64
    assert protocol["metrics"]["lpips"]["network"] == "alexnet"
    assert results.system["kind"] == "gill" and results.system["reading_size"] == 224
    assert str(out.parent) not in (out / "results.json").read_text()


def test_a_run_that_was_stopped_goes_on_where_it_was_with_the_same_images(
    data: Data,
    generated: tuple[Path, Results],
    golden_repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generate = GillSystem.generate_images
    sizes: list[int] = []

    def stops(self: Any, prompts: Any, *rest: Any) -> Any:
        if sizes:
            raise KeyboardInterrupt
        sizes.append(len(prompts))
        return generate(self, prompts, *rest)

    monkeypatch.setattr(GillSystem, "generate_images", stops)
    with pytest.raises(KeyboardInterrupt):
        run(data, "generation", tmp_path / "out", batch_size=1, model=str(golden_repository))
    assert not (tmp_path / "out/results.json").exists()

    def goes_on(self: Any, prompts: Any, *rest: Any) -> Any:
        sizes.append(len(prompts))
        return generate(self, prompts, *rest)

    monkeypatch.setattr(GillSystem, "generate_images", goes_on)
    run(data, "generation", tmp_path / "out", batch_size=2, model=str(golden_repository))
    # The whole run generated two and then one.
    assert sizes == [1, 2]
    assert pixels(tmp_path / "out") == pytest.approx(pixels(generated[0]), abs=1)


def pixels(out: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path), dtype=int) for path in sorted((out / "images").iterdir())])


def test_a_run_under_another_protocol_is_not_resumed(
    data: Data, generated: tuple[Path, Results], golden_repository: Path, tmp_path: Path
) -> None:
    shutil.copytree(generated[0], tmp_path / "out")
    with pytest.raises(ValueError, match="was begun under another protocol: seed was 42, is 7"):
        run(data, "generation", tmp_path / "out", seed=7, model=str(golden_repository))


def test_a_plain_generator_runs_through_the_same_protocol(data: Data, golden_world: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    model = str(golden_world / "sd-golden")
    fields = {"baseline": "generator", "context": "captions", "metrics": ["clip_image_similarity"], "model": model}
    results = run(data, "generation", tmp_path / "out", **fields)
    pipeline = DiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(42)
    size = {"height": 16, "width": 16, "num_inference_steps": 2}
    made = [pipeline(" ".join(SENTENCES), generator=generator, **size).images[0] for _ in STORIES]
    true = [shown(data, names[-1]) for _, names in STORIES]
    wanted = load_metric("clip_image_similarity").compute(predictions=made, references=true, model=str(data.clip))
    assert results.metrics[0].value == pytest.approx(wanted["clip_image_similarity"], abs=1e-3)
    assert results.system["kind"] == "generator" and results.protocol["context"] == "all captions"


def test_gill_retrieves_with_the_scores_of_the_model_itself(
    data: Data, golden_repository: Path, golden_pipeline: GillPipeline, tmp_path: Path
) -> None:
    results = run(data, "retrieval", tmp_path / "out", model=str(golden_repository))
    names = sorted({name for _, names in STORIES for name in names})
    model, processor = golden_pipeline.model, golden_pipeline.processor
    images = [shown(data, name).resize((224, 224)) for name in names]
    with torch.no_grad():
        embeds = model.get_image_retrieval_embeddings(
            processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        )
        ranks = []
        for _, story in STORIES:
            pieces: list[Any] = []
            for sentence, name in zip(SENTENCES, story, strict=True):
                pieces += [sentence, shown(data, name).resize((224, 224))]
            batch = processor([pieces[:-1]], add_img_tokens=True)
            query = model(**batch, output_images=True).retrieval_embeds
            scores = model.retrieval_scores(query, embeds)[0]
            scores[[names.index(name) for name in story[:-1]]] = -torch.inf
            ranks.append(int((scores > scores[names.index(story[-1])]).sum()) + 1)
    found = values(results)
    assert found["recall@1"] == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
    assert found["recall@5"] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert results.protocol["candidates"] == len(names) == 13


def test_images_of_the_story_are_no_candidates_and_that_changes_the_answer(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every story finds its first image best, its last one second, everything else far behind.
    names = sorted({name for _, names in STORIES for name in names})

    def embed_images(self: Any, paths: Any) -> torch.Tensor:
        return torch.eye(13)[[names.index(path.stem) for path in paths]]

    def embed_prompts(self: Any, prompts: Any) -> torch.Tensor:
        rows = torch.zeros(3, 13)
        for row, (_, story) in zip(rows, STORIES, strict=True):
            row[names.index(story[0])], row[names.index(story[-1])] = 0.8, 0.6
        return rows

    monkeypatch.setattr(ClipBaseline, "embed_images", embed_images)
    monkeypatch.setattr(ClipBaseline, "embed_prompts", embed_prompts)
    fields = {"baseline": "clip", "context": "captions", "model": str(data.clip)}
    masked = run(data, "retrieval", tmp_path / "a", **fields)
    free = run(data, "retrieval", tmp_path / "b", mask=False, **fields)
    assert [one.metrics[0].value for one in (masked, free)] == [1, 0]
    assert [one.protocol["masking"] for one in (masked, free)] == [
        "images that the story has shown are no candidates",
        "none",
    ]


def test_clip_retrieves_by_captions_alone(data: Data, tmp_path: Path) -> None:
    results = run(data, "retrieval", tmp_path / "out", baseline="clip", context="caption", model=str(data.clip))
    clip = ClipBaseline.load(str(data.clip), None, torch.float32, "cpu")
    names = sorted({name for _, names in STORIES for name in names})
    tokens = clip.tokenizer(SENTENCES[-1], return_tensors="pt")
    with torch.no_grad():
        images = clip.prepare(images=[shown(data, name) for name in names], return_tensors="pt")["pixel_values"]
        read = clip.model(**tokens.data, pixel_values=images)
    ranks = []
    for _, story in STORIES:
        scores = read.logits_per_text[0].clone()
        scores[[names.index(name) for name in story[:-1]]] = -torch.inf
        ranks.append(int((scores > scores[names.index(story[-1])]).sum()) + 1)
    found = values(results)
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


def test_a_story_with_a_missing_image_is_refused_or_left_out_by_name(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "val.story-in-sequence.json"
    stories = [*STORIES, ("s4", ["p0", "p1", "nowhere", "p3", "p4"])]
    path.write_text(json.dumps({"annotations": vist_annotations(stories)}))
    files = ["--annotations", str(path), "--images", str(data.images), "--out", str(tmp_path / "out")]
    arguments = ["evaluate", "vist", "retrieval", "--baseline", "clip", "--model", str(data.clip), *files]
    arguments += ["--context", "captions"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: story s4: images nowhere are not in the folder (1 of 4 examples")
    assert error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert main([*arguments, "--leave-out-incomplete"]) == 0
    assert [one.example for one in Results.read(tmp_path / "out").left_out] == ["story s4"]


@pytest.mark.parametrize("mode", ["generation", "retrieval"])
def test_a_damaged_image_is_refused_or_left_out_by_name_before_anything_is_generated(
    data: Data, golden_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    images = tmp_path / "images"
    shutil.copytree(data.images, images)
    # A target, and an image that is shown before the target.
    for name in ("p4", "p5"):
        (images / f"{name}.png").write_bytes((images / f"{name}.png").read_bytes()[:100])
    model = {"generation": golden_world / "sd-golden", "retrieval": data.clip}[mode]
    baseline = {"generation": "generator", "retrieval": "clip"}[mode]
    fields = {"images": images, "model": str(model), "baseline": baseline, "context": "captions"}
    with pytest.raises(ValueError, match=r"story s1: its image cannot be read: .*p4\.png.* \(2 of 3 examples"):
        run(data, mode, tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()
    results = run(data, mode, tmp_path / "out", leave_out_incomplete=True, **fields)
    assert results.metrics[0].examples == 1
    left_out = {one.example: one.reason for one in Results.read(tmp_path / "out").left_out}
    candidates = [] if mode == "generation" else ["candidate p4.png", "candidate p5.png"]
    assert list(left_out) == ["story s1", "story s2", *candidates]
    assert all("cannot be read" in reason for reason in left_out.values())
    assert str(images) not in (tmp_path / "out/results.json").read_text()
    if mode == "retrieval":
        assert results.protocol["candidates"] == 11


@pytest.mark.parametrize(
    ("mode", "fields", "message"),
    [
        ("generation", {"baseline": "clip"}, "baseline `clip` generates no images"),
        ("retrieval", {"baseline": "generator"}, "baseline `generator` cannot retrieve"),
        ("retrieval", {"baseline": "clip"}, "baseline `clip` reads no images; choose the context `caption`"),
        ("answers", {}, "`mode` is 'answers', expected one of 'generation', 'retrieval'"),
        ("retrieval", {"batch_size": 0}, "`batch_size` is 0, expected at least 1"),
        ("generation", {"metrics": ["psnr"]}, "`metrics` is 'psnr', expected one of"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_anything_is_written(
    data: Data, tmp_path: Path, mode: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(data, mode, tmp_path / "out", **{"model": str(data.clip), **fields})
    assert not (tmp_path / "out").exists()


def test_a_metric_without_its_network_is_an_error_before_anything_is_generated(
    data: Data, golden_repository: Path, tmp_path: Path
) -> None:
    fields = {"metrics": ["lpips"], "lpips_alexnet": None, "model": str(golden_repository)}
    with pytest.raises(OSError, match=r"lpips needs the file alexnet-owt-7be5be79\.pth"):
        run(data, "generation", tmp_path / "out", **fields)
    assert not (tmp_path / "out").exists()
