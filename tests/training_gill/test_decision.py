"""The decision head: which annotations count, how it is trained, and what is written."""

import json
import shutil

import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from training_gill.decision import HeadTraining, main, prompt_features, train_head


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
    assert result["train_prompts"] == 150 and len(result["trained_on"]) == 150
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
