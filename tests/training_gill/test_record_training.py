"""DreamLLM's stages, from a plain language model to a repository with one that has learnt."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill import GillPipeline
from tests.training_gill.small_records import record_entries
from training_gill import read_recipe, train
from training_gill.checkpoints import last_checkpoint
from training_gill.recipe import STAGES, RecipeError


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def halves(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results of both halves of the first stage."""
    out = tmp_path_factory.mktemp("stages")
    for stage in ("creation", "comprehension"):
        train(record_entries(small_world, out / stage, stage=stage))
    return out / "creation", out / "comprehension"


def test_the_first_stage_starts_from_a_plain_language_model_and_saves_the_added_rows(halves):
    creation, comprehension = map(weights_of, halves)
    assert creation.keys() == comprehension.keys()
    assert {name.split(".")[0] for name in creation} == {
        "img_embeddings",
        "mapper",
        "visual_projection",
        "added_embeddings",
        "added_head",
    }
    for name in ("added_embeddings.weight", "added_head.weight"):
        assert torch.equal(creation[name], comprehension[name])
    # What one has trained is as the other was made.
    assert not torch.equal(creation["img_embeddings.weight"], comprehension["img_embeddings.weight"])
    assert not torch.equal(creation["visual_projection.weight"], comprehension["visual_projection.weight"])


def test_a_generator_that_was_saved_without_a_text_encoder_is_trained_for_and_draws(halves, small_world, tmp_path):
    """What is learnt takes its place, and what the model makes of the empty prompt that of the negative prompt."""
    bare, out = tmp_path / "generator", tmp_path / "out"
    whole = small_world / "models" / "image_generator"
    DiffusionPipeline.from_pretrained(whole, text_encoder=None, tokenizer=None).save_pretrained(bare)
    assert not (bare / "text_encoder").exists()
    train(record_entries(small_world, out, stage="creation", image_generator=str(bare)))
    trained = weights_of(out)
    assert all(torch.equal(trained[name], weight) for name, weight in weights_of(halves[0]).items())

    images = []
    for folder in (out, halves[0]):
        pipe = GillPipeline.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        options = {"decision": "generate", "force_image": True, "guidance_scale": 2.0, "num_inference_steps": 1}
        images.append(pipe("a red circle", generator=torch.Generator().manual_seed(0), **options).images[0])
    assert pipe.image_generator.text_encoder is not None
    assert images[0].tobytes() == images[1].tobytes()


def test_the_second_stage_takes_both_halves_and_keeps_its_language_model(halves, small_world, tmp_path):
    start = [str(folder) for folder in halves]
    train(record_entries(small_world, tmp_path / "none", start_from=start, stage="tuning", learning_rate=0.0))
    creation, comprehension, joined = map(weights_of, (*halves, tmp_path / "none"))
    for name in comprehension:
        half = comprehension if name.startswith("visual_projection") else creation
        assert torch.equal(joined[name], half[name]), name

    train(record_entries(small_world, tmp_path / "tuned", start_from=start, stage="tuning"))
    tuned = weights_of(tmp_path / "tuned")
    assert tuned.keys() == joined.keys() > creation.keys()
    moved = [name for name in tuned if not torch.equal(tuned[name], joined[name])]
    assert {name.split(".")[0] for name in moved} >= {"language_model", "mapper", "visual_projection", "added_head"}
    model = GillForConditionalGeneration.from_pretrained(tmp_path / "tuned")
    assert model.config.language_model_id is None
    assert model.config.vision_model_id == str(small_world / "models" / "vision_model")
    for name, weight in model.named_parameters():
        assert name.startswith("vision_model.") or torch.equal(weight, tuned[name]), name
    assert GillProcessor.from_pretrained(tmp_path / "tuned").image_output_start_token == "<dream_start>"

    # The third stage goes on from the second.
    third = record_entries(small_world, tmp_path / "third", start_from=str(tmp_path / "tuned"), stage="tuning")
    assert "loss" in str(train({**third, "max_steps": 1}))
    assert weights_of(tmp_path / "third").keys() == tuned.keys()


def test_halves_that_do_not_belong_together_are_refused(halves, small_world, tmp_path):
    entries = record_entries(small_world, tmp_path / "out", stage="tuning")
    train(record_entries(small_world, tmp_path / "other", stage="comprehension", seed=2, max_steps=1))
    with pytest.raises(RecipeError, match="different rows for tokens"):
        train({**entries, "start_from": [str(halves[0]), str(tmp_path / "other")]})
    (tmp_path / "other" / "training.json").write_text(json.dumps({"losses": {"train": None}}))
    with pytest.raises(RecipeError, match=r"training\.json does not say"):
        train({**entries, "start_from": [str(halves[0]), str(tmp_path / "other")]})


@pytest.mark.slow
def test_a_training_of_the_language_model_resumes_bit_for_bit(small_world, tmp_path):
    entries = {"stage": "tuning", "save_strategy": "steps", "save_steps": 2, "condition_dropout": 0.5}
    train(record_entries(small_world, tmp_path / "whole", **entries, max_steps=4))
    train(record_entries(small_world, tmp_path / "parts", **entries, max_steps=2))
    assert last_checkpoint(tmp_path / "parts") == str(tmp_path / "parts" / "checkpoint-2")
    train(record_entries(small_world, tmp_path / "parts", **entries, max_steps=4))
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    # Nothing but the repository is missing: it is only written.
    (tmp_path / "parts" / "training.json").unlink()
    train(record_entries(small_world, tmp_path / "parts", **entries, max_steps=4))
    assert all(torch.equal(whole[name], value) for name, value in weights_of(tmp_path / "parts").items())


@pytest.mark.slow
def test_evaluation_measures_the_losses_of_records(small_world, tmp_path):
    validation = [{"kind": "pairs", "files": str(small_world / "validation.tsv"), "size": 8}]
    entries = record_entries(small_world, tmp_path / "out", stage="tuning", validation_data=validation, max_steps=1)
    found = train(entries)
    assert {"eval_language_loss", "eval_denoising_loss", "eval_language_accuracy"} <= found.keys()


@pytest.mark.slow
def test_the_denoising_loss_trains_the_mapper_of_gill_too(recipe_with, small_world, tmp_path):
    """Alone after the distillation, with it, and by what the generator predicts itself; both backbones stay frozen."""
    first = recipe_with(output_dir=str(tmp_path / "distilled"))
    train(first)
    only = {"captioning_weight": 0, "language_weight": 0, "contrastive_weight": 0, "learning_rate": 1e-3}
    itself = {"denoising_target": "generator", "train_img_embeddings": False}
    for name, conditioning, entries in (("after", 0.0, {}), ("together", 1.0, {}), ("itself", 0.0, itself)):
        recipe = recipe_with(
            output_dir=str(tmp_path / name),
            start_from=str(tmp_path / "distilled"),
            conditioning_weight=conditioning,
            denoising_weight=1.0,
            **only,
            **entries,
        )
        train(recipe)
        before, after = weights_of(tmp_path / "distilled"), weights_of(tmp_path / name)
        assert before.keys() == after.keys()
        moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert moved == ({"mapper"} if name == "itself" else {"mapper", "img_embeddings"})


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_a_stage_sets_what_the_recipe_leaves_open(small_world, tmp_path):
    recipe = read_recipe(record_entries(small_world, tmp_path, stage="tuning", denoising_weight=5.0))
    assert recipe.learns == STAGES["tuning"]["train"]
    assert recipe.loss_weights().denoising == 5.0
    assert recipe.loss_weights().language == 1.0
    assert recipe.loss_weights().captioning == recipe.loss_weights().conditioning == 0


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"stage": "II"}, "creation, comprehension, tuning"),
        ({"stage": "creation", "train_data": "captions.tsv"}, "`train` is"),
        ({"stage": "creation", "negative_conditioning": "nothing"}, "generator"),
        ({"stage": "creation", "train": ["queries"]}, "must be some of"),
        ({}, "language, denoising and conditioning"),
        ({"stage": "creation", "condition_dropout": 2.0}, "probability"),
    ],
)
def test_recipes_that_cannot_be_followed_are_refused(entries, message, small_world, tmp_path):
    with pytest.raises(RecipeError, match=message):
        train(record_entries(small_world, tmp_path / "out", **entries))
