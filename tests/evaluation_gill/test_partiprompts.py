"""PartiPrompts: the metrics of decisions, measured on prompts that did not train the head."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from evaluation_gill import Results, evaluate
from evaluation_gill.decisions import read_annotations, split_annotations, split_record
from gill.cli import main
from pipeline_gill import GillPipeline
from tests.evaluation_gill.conftest import Data, values


def run(data: Data, out: Path, **fields: object) -> Results:
    return evaluate("partiprompts", **{"annotations": data.votes, "out": out, "train_prompts": 1, **fields})


def test_decisions_are_those_of_the_head_and_their_f1_that_of_a_direct_computation(
    data: Data, golden_repository: Path, golden_pipeline: GillPipeline, tmp_path: Path
) -> None:
    results = run(data, tmp_path / "out", model=str(golden_repository), batch_size=2)
    prompts = [f'a "thing" {number}' for number in (1, 3, 4, 6, 7)]
    preferred = ["retrieve", "retrieve", "generate", "retrieve", "generate"]
    decided = []
    for prompt in prompts:
        batch = golden_pipeline.processor([prompt], add_img_tokens=True)
        with torch.no_grad():
            logits = golden_pipeline.model(**batch, output_images=True).decision_logits[0]
        decided.append("retrieve" if logits.argmax() == 1 else "generate")

    def f1(label: str) -> float:
        both = sum(a == b == label for a, b in zip(decided, preferred, strict=True))
        return 2 * both / (decided.count(label) + preferred.count(label))

    found = {metric.name: metric for metric in results.metrics}
    assert found["decision_f1"].value == pytest.approx((f1("generate") + f1("retrieve")) / 2)
    low, high = found["decision_f1"].interval or (1, 0)
    assert 0 <= low <= found["decision_f1"].value <= high <= 1
    assert results.protocol["examples"] == 5 and results.protocol["not_agreed_on"] == 2
    assert results.protocol["threshold"] == 0.5 and results.protocol["retrieve"] == 3


def test_always_generating_and_always_retrieving_are_the_baselines(data: Data, tmp_path: Path) -> None:
    generate = run(data, tmp_path / "a", baseline="generator")
    retrieve = run(data, tmp_path / "b", baseline="clip")
    found = [values(one) for one in (generate, retrieve)]
    assert found[0]["decision_f1"] == pytest.approx((2 * 2 / (5 + 2)) / 2) and found[0]["f1_retrieve"] == 0
    assert found[1]["decision_f1"] == pytest.approx((2 * 3 / (5 + 3)) / 2) and found[1]["accuracy"] == 0.6


def test_no_prompt_left_to_validate_on_is_an_error(data: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="6 of 8 prompts are agreed on, 6 of them are for training"):
        run(data, tmp_path / "out", baseline="clip", train_prompts=None)


def test_neither_model_nor_baseline_is_an_error(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--annotations", str(data.votes), "--out", str(tmp_path / "out"), "--train-prompts", "1"]
    assert main(["evaluate", "partiprompts", *arguments]) == 2
    assert "The option `model` is missing" in capsys.readouterr().err


def test_prompts_that_trained_the_head_are_not_measured(data: Data, golden_repository: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(golden_repository, model)
    annotations = read_annotations(data.votes)
    train, validation = split_annotations(annotations, 3, seed=2)
    assert train != [one for one in annotations if one.label != "tie"][:3]
    (model / "results").mkdir()
    (model / "results/decision.json").write_text(json.dumps(split_record(data.votes, train, 2)))
    results = run(data, tmp_path / "out", model=str(model), train_prompts=None)
    assert results.protocol["examples"] == len(validation) == 3
    assert results.protocol["split"] == "as recorded when the head was trained"
    with pytest.raises(ValueError, match="trained the decision head"):
        run(data, tmp_path / "out", model=str(model), train_prompts=3)
    assert run(data, tmp_path / "out", model=str(model), part="all").protocol["examples"] == 6
