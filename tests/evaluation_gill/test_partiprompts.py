"""PartiPrompts: agreement of votes, and the figures of decisions."""

from pathlib import Path

import pytest
import torch

from evaluation_gill import partiprompts
from evaluation_gill.command_line import run_command
from evaluation_gill.decision_annotations import agreed, read_annotations, train_and_validation
from pipeline_gill import GillPipeline
from tests.evaluation_gill.conftest import Data


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ("gen gen gen gen ret", "gen"),
        ("ret ret ret ret ret", "ret"),
        ("gen gen gen ret same", "gen"),
        ("ret ret ret same same", "ret"),
        ("gen gen gen ret ret", "same"),
        ("gen gen ret ret same", "same"),
        ("same same same same gen", "same"),
    ],
)
def test_votes_agree_at_four_equal_or_three_with_one_against(votes: str, label: str) -> None:
    assert agreed(votes.split()) == label


def test_the_first_agreed_prompts_train_and_the_rest_validate(data: Data) -> None:
    every = read_annotations(data.votes)
    assert [one.label for one in every] == ["gen", "ret", "same", "ret", "gen", "same", "ret", "gen"]
    assert every[0].prompt == 'a "thing" 0' and every[0].votes == ("gen", "gen", "gen", "gen", "ret")
    train, validation = train_and_validation(every, train=2)
    assert [one.label for one in train] == ["gen", "ret"]
    assert [one.label for one in validation] == ["ret", "gen", "ret", "gen"]


def test_a_file_of_labels_reads_as_one_of_votes(data: Data, tmp_path: Path) -> None:
    lines = ["Prompt\tCategory\tChallenge\tNote\tDecision"]
    lines += [f"{one.prompt}\t{one.category}\tBasic\t\t{one.label}" for one in read_annotations(data.votes)]
    (tmp_path / "labels.tsv").write_text("\n".join(lines))
    labels = [(one.prompt, one.label) for one in read_annotations(tmp_path / "labels.tsv")]
    assert labels == [(one.prompt, one.label) for one in read_annotations(data.votes)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has the columns"),
        ("Prompt\tVotes\na\tgen", "has the columns"),
        ("Prompt\tDecisions\na", "line 2: 1 columns, expected 2"),
        ("Prompt\tDecisions\na\tgen,maybe", r"line 2: unknown votes \['maybe'\]"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "votes.tsv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_annotations(tmp_path / "votes.tsv")


def run(data: Data, out: Path, *more: str) -> list[str]:
    return ["--annotations", str(data.votes), "--out", str(out), "--train", "1", *more]


def test_decisions_are_those_of_the_head_and_their_f1_that_of_a_direct_computation(
    data: Data, golden_repository: Path, golden_pipeline: GillPipeline, tmp_path: Path
) -> None:
    results = partiprompts.main(["--model", str(golden_repository), *run(data, tmp_path / "out", "--batch-size", "2")])
    prompts = [f'a "thing" {number}' for number in (1, 3, 4, 6, 7)]
    preferred = ["ret", "ret", "gen", "ret", "gen"]
    decided = []
    for prompt in prompts:
        batch = golden_pipeline.processor([prompt], add_img_tokens=True)
        with torch.no_grad():
            logits = golden_pipeline.model(**batch, output_images=True).decision_logits[0]
        decided.append("ret" if logits.argmax() == 1 else "gen")

    def f1(label: str) -> float:
        both = sum(a == b == label for a, b in zip(decided, preferred, strict=True))
        return 2 * both / (decided.count(label) + preferred.count(label))

    found = {figure.name: figure for figure in results.figures}
    assert found["decision_f1"].value == pytest.approx((f1("gen") + f1("ret")) / 2)
    low, high = found["decision_f1"].interval or (1, 0)
    assert 0 <= low <= found["decision_f1"].value <= high <= 1
    assert results.protocol["examples"] == 5 and results.protocol["not_agreed_on"] == 2
    assert results.protocol["threshold"] == 0.5 and results.protocol["retrieve"] == 3


def test_always_generating_and_always_retrieving_are_the_baselines(data: Data, tmp_path: Path) -> None:
    generate = partiprompts.main(["--baseline", "generator", *run(data, tmp_path / "a")])
    retrieve = partiprompts.main(["--baseline", "clip", *run(data, tmp_path / "b")])
    found = [{figure.name: figure.value for figure in one.figures} for one in (generate, retrieve)]
    assert found[0]["decision_f1"] == pytest.approx((2 * 2 / (5 + 2)) / 2) and found[0]["f1_retrieve"] == 0
    assert found[1]["decision_f1"] == pytest.approx((2 * 3 / (5 + 3)) / 2) and found[1]["accuracy"] == 0.6


def test_no_prompt_left_to_validate_on_is_told(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--model",
        "any",
        "--baseline",
        "clip",
        "--annotations",
        str(data.votes),
        "--out",
        str(tmp_path / "out"),
    ]
    assert run_command(partiprompts.main, arguments) == 2
    assert "6 of 8 prompts are agreed on, the first 600 are for training" in capsys.readouterr().err


def test_neither_model_nor_baseline_is_told(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(partiprompts.main, run(data, tmp_path / "out")) == 2
    assert "`--model` is missing" in capsys.readouterr().err
