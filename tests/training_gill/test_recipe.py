"""Recipes are read, their mistakes are named, and the shipped ones hold the paper's numbers."""

from pathlib import Path

import pytest

from training_gill import recipe as recipes
from training_gill.recipe import RecipeError, lora_fields, read_recipe

SHIPPED = sorted((Path(recipes.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read(path):
    read = read_recipe([str(path), "--bf16", "false", "--report_to", "none"])
    assert read.data.train_data
    assert any(vars(read.losses.weights()).values())


def test_the_recipe_of_the_paper_has_its_numbers():
    read = read_recipe([str(SHIPPED[0].parent / "gill_cc3m.yaml"), "--bf16", "false", "--report_to", "none"])
    args, model = read.training, read.model
    assert (model.language_model, model.vision_model) == ("facebook/opt-6.7b", "openai/clip-vit-large-patch14")
    assert (model.num_image_output_tokens, model.num_visual_tokens, model.retrieval_dim) == (8, 4, 256)
    assert (args.learning_rate, args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (1e-3, 0.9, 0.95, 1e-8)
    assert (args.weight_decay, args.max_grad_norm, args.warmup_steps, args.max_steps) == (0.01, 1.0, 2000, 20_000)
    assert (read.losses.lr_decay_every, read.losses.lr_decay_factor) == (10_000, 0.1)
    assert 2 * args.per_device_train_batch_size == 200
    assert (read.data.max_length, read.data.packing) == (32, 0.5)
    assert set(vars(read.losses.weights()).values()) == {1.0}


def test_ablations_differ_from_the_paper_in_one_thing():
    paper = (SHIPPED[0].parent / "gill_cc3m.yaml").read_text().splitlines()
    for path in SHIPPED:
        if path.stem.startswith("ablation"):
            entries = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
            assert len([line for line in entries if line not in paper]) == 2, path  # what is ablated, and where to


def test_options_overrule_the_recipe(recipe_file):
    read = read_recipe([str(recipe_file), "--learning_rate", "0.5", "--packing", "1", "--contrastive_weight", "0"])
    assert (read.training.learning_rate, read.data.packing, read.losses.contrastive_weight) == (0.5, 1.0, 0.0)


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("lerning_rate: 1", "did you mean 'learning_rate'"),
        ("mapper_type: magic", "magic"),
        ("train_data: null", "train_data"),
        ("backbone_dtype: int8", "int8"),
        ("img_tokens: '[A],[B],[C]'", r"\[A\],\[B\],\[C\]"),
        ("lora: [", "no YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(added, said, recipe_file):
    recipe_file.write_text(f"{recipe_file.read_text()}\n{added}\n")
    with pytest.raises(RecipeError, match=said):
        read_recipe([str(recipe_file)])


@pytest.mark.parametrize("argv", ([], ["/no/such/recipe.yaml"]))
def test_no_recipe_is_named(argv):
    with pytest.raises(RecipeError, match=r"\.yaml"):
        read_recipe(argv)


@pytest.mark.parametrize("text", ("no json", "[1]"))
def test_lora_that_is_no_json_object_is_named(text):
    with pytest.raises(RecipeError, match="JSON"):
        lora_fields(text)


def test_the_record_has_everything_but_secrets_and_places(recipe_file):
    record = read_recipe([str(recipe_file), "--hub_token", "secret"]).record()
    assert record["model"]["num_image_output_tokens"] == 4
    assert record["training"]["learning_rate"] == 3e-3
    assert "secret" not in str(record)
    assert "output_dir" not in record["training"]
