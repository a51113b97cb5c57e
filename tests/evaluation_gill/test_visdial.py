"""Visual Dialog from its own file format to results."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation_gill import Results, evaluate
from evaluation_gill.dialogues import read_dialogues
from evaluation_gill.systems import GillSystem, Prompt
from gill.cli import main
from pipeline_gill import GillPipeline
from tests.evaluation_gill import conftest
from tests.evaluation_gill.conftest import Data, options_of, values

# Dialogue on image 1; the file's answer to question n of image p is number (p + n) modulo 4.
LINES = ["Q: is it red?", "A: yes", "Q: is it big?", "A: two", "Q: a cat?", "A: blue"]


def run(data: Data, mode: str, out: Path, **fields: Any) -> Results:
    return evaluate("visdial", mode=mode, **options_of(data, data.visdial, out, **fields))


def test_generation_shows_as_many_rounds_as_asked_for(
    data: Data, golden_repository: Path, golden_pipeline: GillPipeline, tmp_path: Path
) -> None:
    fields = {"rounds": 2, "limit": 1, "seeding": "example", "model": str(golden_repository)}
    results = run(data, "generation", tmp_path / "out", **fields)
    assert results.protocol["rounds"] == 2 and results.protocol["context"] == "dialogue alone"
    listed = json.loads((tmp_path / "out/scores.json").read_text())
    assert listed[0]["text"] == "\n".join(LINES[:4])
    answer: Any = golden_pipeline(
        ["\n".join(LINES[:4])],
        decision="generate",
        force_image=True,
        height=16,
        width=16,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(42),
    )
    made = np.asarray(Image.open(tmp_path / "out/images" / listed[0]["image"]), dtype=int)
    assert np.abs(made - np.asarray(answer.images[0], dtype=int)).max() <= 1


def test_both_baselines_run_through_the_same_protocol(data: Data, golden_world: Path, tmp_path: Path) -> None:
    model = str(golden_world / "sd-golden")
    generated = run(data, "generation", tmp_path / "a", rounds=3, baseline="generator", model=model)
    retrieved = run(data, "retrieval", tmp_path / "b", rounds=3, baseline="clip", model=str(data.clip))
    assert [metric.name for metric in generated.metrics] == ["clip_image_similarity", "lpips"]
    assert retrieved.protocol["candidates"] == 3 and values(retrieved)["recall@5"] == 1  # among three


def test_gill_retrieves_the_image_of_a_dialogue(
    data: Data, golden_repository: Path, golden_pipeline: GillPipeline, tmp_path: Path
) -> None:
    results = run(data, "retrieval", tmp_path / "out", rounds=3, model=str(golden_repository))
    files = [data.images / f"VisualDialog_val2018_{number:012d}.jpg" for number in (1, 2, 3)]
    images = [Image.open(path).convert("RGB").resize((224, 224)) for path in files]
    texts = ["\n".join(one.lines(3)) for one in read_dialogues(data.visdial)]
    assert texts[0].splitlines() == LINES
    model, processor = golden_pipeline.model, golden_pipeline.processor
    with torch.no_grad():
        pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        embeds = model.get_image_retrieval_embeddings(pixels)
        read = [model(**processor([text], add_img_tokens=True), output_images=True) for text in texts]
        scores = torch.cat([model.retrieval_scores(one.retrieval_embeds, embeds) for one in read])
    ranks = [(scores[row] > scores[row, row]).sum().item() + 1 for row in range(3)]
    found = values(results)
    assert found["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert found["recall@1"] == pytest.approx(np.mean([rank == 1 for rank in ranks]))


def test_answers_are_ranked_by_their_likelihood_ties_included_as_computed_by_hand(
    data: Data, golden_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # "two" is likeliest, "yes" and "blue" are equal, "no" comes last.
    likely = {"no": 0.0, "yes": 1.0, "two": 2.0, "blue": 1.0}
    monkeypatch.setattr(
        GillSystem,
        "answer_scores",
        lambda self, prompts, answers, size: [[likely[one] for one in options] for options in answers],
    )
    results = run(data, "answers", tmp_path / "out", dense=data.dense, model=str(golden_repository))
    found = {metric.name: metric for metric in results.metrics}
    # Right answers: yes two blue, two blue no, blue no yes; two is first, no fourth, the others share 2 and 3.
    assert found["recall@1"].value == pytest.approx(2 / 9) and found["recall@5"].value == 1
    shared = (1 / 2 + 1 / 3) / 2
    assert found["mrr"].value == pytest.approx((2 * 1 + 5 * shared + 2 / 4) / 9)
    # The second round of images 1 and 2 has the relevances no 0, yes 0.4, two 1, blue 0.
    ideal = 1 + 0.4 / math.log2(3)
    gain = 1 + (0.4 / math.log2(3)) / 2  # the second place is half "yes", half "blue"
    assert found["ndcg"].value == pytest.approx(gain / ideal) and found["ndcg"].examples == 2


def plain_scores(system: GillSystem, prompt: Prompt, answers: list[str]) -> list[float]:
    """Log-likelihoods by one forward pass over image, text and answer each."""
    model, processor = system.pipeline.model, system.pipeline.processor
    path, text = prompt.pieces
    image = Image.open(path).convert("RGB").resize((224, 224))
    known = processor([[image, text]])
    scores = []
    for answer in answers:
        ids = processor.tokenizer(answer, add_special_tokens=False).input_ids
        whole = torch.cat([known["input_ids"], torch.tensor([ids])], dim=1)
        with torch.no_grad():
            logits = model(input_ids=whole, pixel_values=known["pixel_values"]).logits[0].log_softmax(-1)
        start = known["input_ids"].shape[1]
        scores.append(sum(logits[start + place - 1, token].item() for place, token in enumerate(ids)))
    return scores


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_score_of_an_answer_is_its_log_likelihood_after_the_prompt(
    golden_repository: Path, data: Data, batch_size: int
) -> None:
    pipeline = GillPipeline.from_pretrained(golden_repository)
    pipeline.model.double()
    system = GillSystem(pipeline, "golden")
    prompts = [Prompt((data.images / f"p{number}.png", f"Q: is it {number}?\nA: ")) for number in (1, 2, 1)]
    answers = [["no", "yes it is", "blue and red and green"], ["no"], ["a long answer to it", "yes"]]
    scores = system.answer_scores(prompts, answers, batch_size)
    for prompt, options, found in zip(prompts, answers, scores, strict=True):
        assert found == pytest.approx(plain_scores(system, prompt, options), abs=1e-9, rel=1e-9)


def test_an_image_is_encoded_once_and_a_prompt_read_once_for_all_its_answers(
    golden_pipeline: GillPipeline, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_pipeline.model
    encode, forward = model.get_image_features, model.forward
    encoded: list[int] = []
    read: list[tuple[int, ...]] = []

    def count_images(pixel_values: torch.Tensor, **rest: Any) -> Any:
        encoded.append(len(pixel_values))
        return encode(pixel_values, **rest)

    def count_tokens(input_ids: torch.Tensor, **rest: Any) -> Any:
        read.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(model, "get_image_features", count_images)
    monkeypatch.setattr(model, "forward", count_tokens)
    prompts = [Prompt((data.images / "p1.png", f"Q: is it {text}?\nA: ")) for text in ("red", "big")]
    GillSystem(golden_pipeline, "golden").answer_scores(prompts, [["yes it is", "no it is not"] * 50] * 2, 100)
    assert encoded == [1]
    assert [rows for rows, _ in read] == [1, 100, 1, 100]


def test_a_dialogue_with_fewer_rounds_is_refused_or_left_out_by_name(
    data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = conftest.visdial([1, 2, 3], rounds=3)
    content["data"]["dialogs"][1]["dialog"].pop()
    path = tmp_path / "visdial.json"
    path.write_text(json.dumps(content))
    files = ["--annotations", str(path), "--images", str(data.images), "--out", str(tmp_path / "out")]
    arguments = ["evaluate", "visdial", "retrieval", "--baseline", "clip", "--model", str(data.clip), *files]
    arguments += ["--rounds", "3"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: dialogue on image 2: it has 2 rounds, 3 were asked for")
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--leave-out-incomplete"]) == 0
    results = Results.read(tmp_path / "out")
    assert [one.example for one in results.left_out] == ["dialogue on image 2"]
    assert results.metrics[0].examples == 2 and results.protocol["candidates"] == 3
