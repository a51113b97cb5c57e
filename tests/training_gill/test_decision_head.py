"""The decision head: which annotations count, how it is trained, and what is written."""

import json
import shutil

import pytest
import torch

from gill import cli
from modeling_gill import GillForConditionalGeneration
from training_gill import DecisionHeadOptions, train, train_decision_head
from training_gill.decision_head import fit_head, prompt_features


def test_the_head_learns_what_can_be_told_apart():
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    features = torch.randn(200, 16) + 2 * labels[:, None]
    head = fit_head(features[:100], labels[:100], DecisionHeadOptions(steps=300), dropout=0.5)
    assert float((head(features[100:]).argmax(-1) == labels[100:]).float().mean()) > 0.9


def test_features_are_the_states_at_img0_whatever_the_batch(golden_repository, golden_processor):
    # In float64, in which no order of sums matters.
    golden_model = GillForConditionalGeneration.from_pretrained(golden_repository, dtype=torch.float64)
    prompts = ["a cat", "show me the sea and the house in blue", "the sun"]
    together = prompt_features(golden_model, golden_processor, prompts, batch_size=3)
    alone = prompt_features(golden_model, golden_processor, prompts, batch_size=1)
    assert together.shape == (3, golden_model.config.embedding_dim)
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-9)


def test_the_command_writes_head_and_metrics_into_the_model(golden_repository, small_world, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(golden_repository, model)
    before = GillForConditionalGeneration.from_pretrained(model)
    arguments = ["--model", str(model), "--annotations", str(small_world / "decisions.tsv"), "--steps", "200"]
    assert cli.main(["decision", *arguments, "--train-prompts", "150", "--device", "cpu"]) == 0
    after = GillForConditionalGeneration.from_pretrained(model)
    assert not torch.equal(before.decision_head.weight, after.decision_head.weight)
    assert torch.equal(before.img_embeddings.weight, after.img_embeddings.weight)
    result = json.loads((model / "results" / "decision.json").read_text())
    low, high = result["macro_f1_interval_95"]
    assert low <= result["macro_f1"] <= high
    assert result["train_prompts"] == 150 and len(result["trained_on"]) == 150
    assert result["validation_prompts"] == result["prompts_agreed_on"] - 150
    assert 0.8 < result["human_agreement_macro_f1"] <= 1
    assert "annotators among each other 0." in capsys.readouterr().out


def test_what_else_is_in_the_repository_stays_and_old_shards_do_not(golden_repository, small_world, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(golden_repository, model)
    (model / "README.md").write_text("mine")
    (model / "model-00001-of-00002.safetensors").write_bytes(b"of an older model")
    before = {path.name for path in model.iterdir()}
    train_decision_head(
        model, small_world / "decisions.tsv", DecisionHeadOptions(train_prompts=150, steps=2, device="cpu")
    )
    after = {path.name for path in model.iterdir()}
    assert after == before - {"model-00001-of-00002.safetensors"} | {"results"}
    assert (model / "README.md").read_text() == "mine"


def test_a_model_without_a_head_gets_one(small_world, recipe_with, tmp_path):
    train(recipe_with(max_steps=1))
    options = DecisionHeadOptions(train_prompts=150, steps=20, device="cpu")
    train_decision_head(tmp_path / "out", small_world / "decisions.tsv", options)
    model = GillForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.use_decision_head
    assert model.decision_head.weight.shape == (2, model.config.embedding_dim)


@pytest.mark.parametrize(("model", "annotations"), [("/no/such", None), (None, "/no/such.tsv")])
def test_the_command_names_what_is_missing_in_one_line(model, annotations, golden_repository, small_world, capsys):
    arguments = ["--model", model or str(golden_repository), "--train-prompts", "150"]
    arguments += ["--annotations", annotations or str(small_world / "decisions.tsv")]
    assert cli.main(["decision", *arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
