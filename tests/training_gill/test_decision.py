"""The decision head: which annotations count, how it is trained, and what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluation_gill.decision_annotations import Annotation, AnnotationError, agreed, read_annotations
from modeling_gill import GillForConditionalGeneration
from training_gill.decision import HeadTraining, decide_split, main, prompt_features, train_head
from training_gill.decision_scores import bootstrap_interval, human_agreement, macro_f1


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ("ret,gen,gen,same,gen", "gen"),
        ("ret,ret,ret,ret,same", "ret"),
        ("gen,ret,ret,same,ret", "ret"),
        ("gen,gen,ret,ret,ret", "same"),
        ("gen,gen,same,same,gen", "gen"),
        ("same,same,same,same,gen", "same"),
        ("gen,gen,same,same,ret", "same"),
        ("gen,gen,gen,ret", "gen"),
    ],
)
def test_annotators_agree_as_in_the_paper(votes, label):
    assert agreed(votes.split(",")) == label


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_votes_and_labels_are_read(tmp_path):
    votes = write(
        tmp_path / "v.tsv", "Prompt\tCategory\tDecisions", 'a "cat"\tx\tgen,gen,gen,gen,ret', "sea\tx\tsame,ret"
    )
    assert read_annotations(votes) == [
        Annotation('a "cat"', "gen", ("gen", "gen", "gen", "gen", "ret")),
        Annotation("sea", "same", ("same", "ret")),
    ]
    labels = write(tmp_path / "l.tsv", "Prompt\tDecision", "a cat\tret")
    assert read_annotations(labels) == [Annotation("a cat", "ret")]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Prompt\tVotes", "a\tgen"], "Votes"),
        (["Prompt\tDecisions", "a\tgen,maybe"], "line 2"),
        (["Prompt\tDecision", "\tgen"], "line 2"),
    ],
)
def test_annotations_that_cannot_be_used_are_named(lines, said, tmp_path):
    with pytest.raises(AnnotationError, match=said):
        read_annotations(write(tmp_path / "a.tsv", *lines))
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_annotations(tmp_path / "none.tsv")


def test_macro_f1_is_the_mean_over_both_classes():
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])) == 1
    assert macro_f1(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1])) == pytest.approx((6 / 7 + 0) / 2)


def test_the_interval_holds_the_score_and_is_the_same_again():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 2, 300)
    predicted = np.where(rng.random(300) < 0.8, true, 1 - true)
    low, high = bootstrap_interval(predicted, true)
    assert low < macro_f1(predicted, true) < high
    assert (low, high) == bootstrap_interval(predicted, true)
    assert high - low < 0.12


def test_people_agree_with_what_they_agreed_on():
    assert (
        human_agreement([Annotation("a", "gen", ("gen",) * 5), Annotation("b", "ret", ("ret",) * 4 + ("same",))]) == 1
    )
    assert human_agreement([Annotation("a", "gen")]) is None
    assert (
        0 < human_agreement([Annotation("a", "gen", ("gen",) * 4 + ("ret",)), Annotation("b", "ret", ("ret",) * 4)]) < 1
    )


def test_the_first_prompts_train_or_those_that_a_seed_draws():
    train, validate = decide_split(10, 6, None)
    assert (train.tolist(), validate.tolist()) == (list(range(6)), [6, 7, 8, 9])
    drawn, others = decide_split(10, 6, 1)
    assert sorted([*drawn, *others]) == list(range(10))
    assert drawn.tolist() == decide_split(10, 6, 1)[0].tolist() != train.tolist()
    with pytest.raises(AnnotationError, match="10 prompts"):
        decide_split(10, 10, None)


def test_the_head_learns_what_can_be_told_apart():
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 16) + 2 * labels[:, None]
    head = train_head(features[:100], labels[:100], HeadTraining(steps=300))
    assert float((head(features[100:]).argmax(-1) == labels[100:]).float().mean()) > 0.9


def test_features_are_the_states_at_img0_whatever_the_batch(golden_model, golden_processor):
    prompts = ["a cat", "show me the sea and the house in blue", "the sun"]
    together = prompt_features(golden_model, golden_processor, prompts, batch_size=3)
    alone = prompt_features(golden_model, golden_processor, prompts, batch_size=1)
    assert together.shape == (3, golden_model.config.embedding_dim)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_command_writes_head_and_figures_into_the_model(golden_repository, small_world, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(golden_repository, model)
    before = GillForConditionalGeneration.from_pretrained(model)
    arguments = ["--model", str(model), "--annotations", str(small_world / "decisions.tsv"), "--steps", "200"]
    assert main([*arguments, "--train-prompts", "150", "--device", "cpu"]) == 0
    after = GillForConditionalGeneration.from_pretrained(model)
    assert not torch.equal(before.decision_head.weight, after.decision_head.weight)
    assert torch.equal(before.img_embeddings.weight, after.img_embeddings.weight)
    result = json.loads((model / "results" / "decision.json").read_text())
    low, high = result["macro_f1_interval_95"]
    assert low <= result["macro_f1"] <= high
    assert result["train_prompts"] == 150
    assert result["validation_prompts"] == result["prompts_agreed_on"] - 150
    assert 0.8 < result["human_agreement_macro_f1"] <= 1
    assert "annotators among each other 0." in capsys.readouterr().out


def test_a_model_without_a_head_gets_one(small_world, recipe_with, tmp_path):
    from training_gill.train import train

    train(recipe_with(max_steps=1))
    arguments = ["--model", str(tmp_path / "out"), "--annotations", str(small_world / "decisions.tsv")]
    assert main([*arguments, "--train-prompts", "150", "--steps", "20", "--device", "cpu"]) == 0
    model = GillForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.use_decision_head
    assert model.decision_head.weight.shape == (2, model.config.embedding_dim)


@pytest.mark.parametrize(("model", "annotations"), [("/no/such", None), (None, "/no/such.tsv")])
def test_the_command_says_what_is_missing_in_one_line(model, annotations, golden_repository, small_world, capsys):
    arguments = ["--model", model or str(golden_repository), "--train-prompts", "150"]
    assert main([*arguments, "--annotations", annotations or str(small_world / "decisions.tsv")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
