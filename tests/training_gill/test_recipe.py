"""Recipes are read, their mistakes are named, and the shipped ones hold the paper's numbers."""

import pytest

from training_gill.recipe import RECIPES, RecipeError, describe_entries, lora_fields, parse_overrides, read_recipe
from training_gill.step_losses import LossWeights

SHIPPED = sorted(RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_read(path):
    read = read_recipe(path, bf16=False, report_to="none")
    assert read.data.train_data
    assert any(vars(read.loss_weights()).values())


def test_the_recipe_of_the_paper_has_its_numbers():
    read = read_recipe("gill_cc3m", bf16=False, report_to="none")
    args, model = read.training, read.model
    assert (model.language_model, model.vision_model) == ("facebook/opt-6.7b", "openai/clip-vit-large-patch14")
    assert (model.num_image_output_tokens, model.num_visual_tokens, model.retrieval_dim) == (8, 4, 256)
    assert (args.learning_rate, args.adam_beta1, args.adam_beta2, args.adam_epsilon) == (1e-3, 0.9, 0.95, 1e-8)
    assert (args.weight_decay, args.max_grad_norm, args.warmup_steps, args.max_steps) == (0.01, 1.0, 2000, 20_000)
    assert (read.losses.lr_decay_every, read.losses.lr_decay_factor) == (10_000, 0.1)
    assert 2 * args.per_device_train_batch_size == 200
    assert (read.data.max_length, read.data.packing) == (32, 0.5)
    assert read.loss_weights() == LossWeights(1.0, 1.0, 1.0, 1.0, reconstruction=0.0)


def test_ablations_differ_from_the_paper_in_one_thing():
    paper = read_recipe("gill_cc3m", bf16=False, report_to="none")
    for path in SHIPPED:
        if path.stem.startswith("ablation"):
            read = read_recipe(path, bf16=False, report_to="none")
            assert (read.data, read.losses) == (paper.data, paper.losses)
            differing = [name for name in vars(paper.model) if vars(read.model)[name] != vars(paper.model)[name]]
            assert len(differing) == 1, path
            assert read.training.output_dir != paper.training.output_dir


def test_options_overrule_the_recipe(recipe_file):
    read = read_recipe(recipe_file, learning_rate=0.5, packing=1, contrastive_weight=0)
    assert (read.training.learning_rate, read.data.packing, read.losses.contrastive_weight) == (0.5, 1.0, 0.0)


def test_a_command_line_overrules_the_recipe(recipe_file):
    words = [str(recipe_file), "--learning_rate", "1e-3", "--streaming", "--max-steps=2e1", "--context_separator", " ."]
    with pytest.raises(RecipeError, match="`--request` has no value"):
        parse_overrides([*words, "--request", "--panel_generate", "false"])
    recipe, overrides = parse_overrides([*words, "--panel_generate", "false", "--request="])
    read = read_recipe(recipe, **overrides)
    assert (read.training.learning_rate, read.training.max_steps, read.data.streaming) == (1e-3, 20, True)
    assert (read.data.context_separator, read.losses.panel_generate, read.data.request) == (" .", False, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lerning_rate", "1"], "did you mean 'learning_rate'"),
        (["a.yaml", "b.yaml"], "'b.yaml' is neither"),
        (["--seed"], "`--seed` has no value"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(words, message):
    with pytest.raises(RecipeError, match=message):
        parse_overrides(words)


def test_fsdp_is_switched_off_on_a_command_line():
    recipe, overrides = parse_overrides(["dreamllm_stage2", "--fsdp", "false", "--fsdp_config", "{}"])
    assert not read_recipe(recipe, use_cpu=True, **overrides).training.fsdp
    assert parse_overrides(["dreamllm_stage2", "--fsdp"])[1] == {"fsdp": True}


@pytest.mark.parametrize(
    ("entry", "value"),
    [("max_steps", 2.5), ("max_steps", "many"), ("packing", True), ("streaming", "perhaps"), ("cache", object())],
)
def test_an_entry_of_another_type_is_named(entry, value, recipe_file):
    with pytest.raises(RecipeError, match=f"`{entry}` is .*expected"):
        read_recipe(recipe_file, **{entry: value})


def test_a_recipe_may_be_based_on_another(tmp_path, recipe_file):
    (tmp_path / "mine.yaml").write_text(f"base: {recipe_file.name}\nmax_steps: 7\n")
    read = read_recipe(tmp_path / "mine.yaml")
    assert (read.training.max_steps, read.model.retrieval_dim) == (7, 64)
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(RecipeError, match="based on it"):
        read_recipe(tmp_path / "a.yaml")


def test_all_entries_can_be_listed():
    assert "num_visual_tokens: 4" in describe_entries() and "TrainingArguments" in describe_entries()


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
        read_recipe(recipe_file)


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(RecipeError, match=r"such/recipe\.yaml"):
        read_recipe("/no/such/recipe.yaml")


@pytest.mark.parametrize("text", ("no json", "[1]"))
def test_lora_that_is_no_json_object_is_named(text):
    with pytest.raises(RecipeError, match="JSON"):
        lora_fields(text)


def test_the_record_has_everything_but_secrets_and_places(recipe_file):
    record = read_recipe(recipe_file, hub_token="secret").record()
    assert record["model"]["num_image_output_tokens"] == 4
    assert record["training"]["learning_rate"] == 3e-3
    assert "secret" not in str(record)
    assert "output_dir" not in record["training"]
