"""How the language model is asked: rows that begin as a question's tokens, states computed once, captions for both."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from gill import cli
from modeling_gill import GillForConditionalGeneration
from training_gill import PrecomputeArguments, precompute, train
from training_gill.caches import CacheError, LanguageStatesCache, TextTargetsCache
from training_gill.model_building import build_model
from training_gill.recipe import RecipeError
from training_gill.step_losses import LossWeights
from training_gill.training import build_collator
from training_gill.training_data import open_data
from training_gill.training_step import AdapterTrainingStep

TEXT = "red circle small ."
HEADS_ALONE = {"train_img_embeddings": False, "language_weight": 0.0, "captioning_weight": 0.0}


@pytest.fixture(scope="module")
def states(small_world, tmp_path_factory):
    """A cache of states, targets and features, and the recipe that it is for."""
    folder = tmp_path_factory.mktemp("states")
    from tests.training_gill.conftest import write_recipe

    recipe = write_recipe(small_world, folder / "out", folder / "recipe.yaml")
    entries = yaml.safe_load(recipe.read_text())
    entries |= {**HEADS_ALONE, "initializer_text": TEXT, "cache": str(folder / "cache"), "panel_steps": 0}
    entries |= {"eval_strategy": "no", "max_steps": 3, "use_cpu": True, "disable_tqdm": True}
    recipe.write_text(yaml.safe_dump(entries))
    made = precompute(
        PrecomputeArguments(
            [str(small_world / "train.tsv"), str(small_world / "validation.tsv")],
            str(folder / "cache"),
            image_generator=str(small_world / "models" / "image_generator"),
            image_features=True,
            vision_model=str(small_world / "models" / "vision_model"),
            language_states=str(recipe),
            dtype="float32",
            device="cpu",
        )
    )
    assert made.states == made.targets == 256
    return recipe


def read(states, recipe_with, **options):
    from training_gill import read_recipe

    return read_recipe(states, per_device_train_batch_size=8, **options)


# --- initializer_text ------------------------------------------------------------------------------------------------


def test_each_img_row_begins_as_one_token_of_the_text(recipe_with):
    model, processor = build_model(recipe_with(initializer_text=TEXT).model, torch.float32, seed=0)
    ids = processor.tokenizer(TEXT, add_special_tokens=False).input_ids
    assert torch.equal(model.img_embeddings.weight, model.language_model.get_input_embeddings().weight[ids])


@pytest.mark.parametrize(("text", "count"), (("red circle", 2), ("red circle small . .", 5)))
def test_a_text_of_another_number_of_tokens_is_refused_with_both_numbers(recipe_with, text, count):
    with pytest.raises(RecipeError, match=rf"`initializer_text` must be 4 tokens.* which is {count}:"):
        build_model(recipe_with(initializer_text=text).model, torch.float32, seed=0)


def test_rows_begin_as_one_token_or_as_a_text(recipe_with):
    with pytest.raises(RecipeError, match="expected one of them"):
        recipe_with(initializer_text=TEXT, initializer_token=".")


# --- rows that stay --------------------------------------------------------------------------------------------------


def test_rows_that_are_not_trained_stay_what_they_began_as(recipe_with):
    recipe = recipe_with(initializer_text=TEXT, train_img_embeddings=False, language_weight=0.0)
    before, _ = build_model(recipe.model, torch.float32, seed=0)
    train(recipe)
    backbones = {"language_model": before.language_model, "vision_model": before.vision_model}
    after = GillForConditionalGeneration.from_pretrained(recipe.training.output_dir, **backbones)
    assert torch.equal(after.img_embeddings.weight, before.img_embeddings.weight)
    assert not torch.equal(after.text_retrieval_head.weight, before.text_retrieval_head.weight)


def test_a_loss_that_would_train_only_fixed_rows_is_refused(recipe_with):
    with pytest.raises(RecipeError, match=r"language loss is 1\.0, but the `\[IMG\]` rows.* expected 0"):
        train(recipe_with(train_img_embeddings=False))


# --- states computed once --------------------------------------------------------------------------------------------


def test_heads_learn_from_stored_states_what_they_learn_from_the_language_model(states, recipe_with, small_world):
    recipe = read(states, recipe_with)
    gill, processor = build_model(recipe.model, torch.float32, 0, recipe.data.cache)
    weights = LossWeights(captioning=0.0, language=0.0)
    step = AdapterTrainingStep(gill, weights, train_img_embeddings=False).train()
    collator = build_collator(recipe, gill, processor)
    data = open_data(str(small_world / "train.tsv"))
    examples = [data[number] for number in range(9)]
    stored = collator(examples)
    assert stored["img_states"].shape == (9, 4, 128)
    collator.language_states, collator.packing = None, 0.0
    whole = collator(examples)
    found = []
    for batch in (stored, whole):
        step.zero_grad()
        outputs = step(**batch)
        outputs["loss"].backward()
        gradients = {name: w.grad for name, w in gill.named_parameters() if w.grad is not None}
        found.append((outputs, gradients))
    (own, own_gradients), (expected, gradients) = found
    torch.testing.assert_close(own["loss"], expected["loss"], rtol=1e-5, atol=1e-6)
    assert own_gradients.keys() == gradients.keys() and "img_embeddings.weight" not in gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(own_gradients[name], gradient, rtol=1e-3, atol=1e-6)


def test_training_on_stored_states_does_not_run_the_language_model(states, recipe_with, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the language model ran")

    monkeypatch.setattr(GillForConditionalGeneration, "run_language_model", refuse)
    measured = train(read(states, recipe_with, eval_strategy="steps", eval_steps=3))
    assert {"eval_contrastive_loss", "eval_conditioning_loss", "eval_caption_to_image_top1"} <= measured.keys()


def test_states_of_other_rows_are_refused_by_name(states, recipe_with):
    with pytest.raises(CacheError, match="img_rows"):
        train(read(states, recipe_with, initializer_text="blue circle small ."))
    with pytest.raises(CacheError, match="max_length"):
        train(read(states, recipe_with, max_length=30))


def test_states_are_not_read_where_the_rows_are_trained(states, recipe_with):
    recipe = read(states, recipe_with, train_img_embeddings=True, language_weight=1.0)
    gill, processor = build_model(recipe.model, torch.float32, 0, recipe.data.cache)
    assert build_collator(recipe, gill, processor).language_states is None


def test_captions_without_states_are_counted_before_the_first_step(states, recipe_with, own_world):
    lines = (own_world / "train.tsv").read_text().splitlines()
    lines[5] = lines[5].replace("a ", "the ", 1)
    (own_world / "train.tsv").write_text("\n".join(lines) + "\n")
    recipe = read(states, recipe_with, train_data=str(own_world / "train.tsv"), conditioning_weight=0.0)
    with pytest.raises(CacheError, match="no states for 1 of the 256 captions"):
        train(recipe)


def test_what_changes_before_a_caption_cannot_be_stored(states, recipe_with):
    with pytest.raises(RecipeError, match="states of captions are those of a caption alone"):
        train(read(states, recipe_with, context=2))


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"train_img_embeddings": True}, "`train_img_embeddings` is True"),
        ({"lora": '{"r": 2}'}, "`lora` is"),
        ({"request": "draw :"}, "`request` 'draw :'"),
    ),
)
def test_states_that_change_in_training_are_not_computed_before(states, tmp_path, capsys, change, message):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(yaml.safe_load(states.read_text()) | change))
    data = yaml.safe_load(states.read_text())["train_data"]
    command = ["precompute", "--dataset", data, "--out", str(tmp_path / "cache"), "--language-states", str(recipe)]
    assert cli.main(command) == 2
    assert message in capsys.readouterr().err


def test_states_alone_can_be_computed_again_and_continued(states, tmp_path, small_world):
    arguments = PrecomputeArguments(
        [str(small_world / "train.tsv")], str(tmp_path / "cache"), language_states=str(states), device="cpu"
    )
    assert precompute(replace(arguments, batch_size=100)).states == 256
    assert precompute(arguments).states == 0
    entries = yaml.safe_load(states.read_text())
    exact, rounded = LanguageStatesCache(Path(entries["cache"])), LanguageStatesCache(tmp_path / "cache")
    caption = "a small red circle on a white background"
    torch.testing.assert_close(rounded[caption], exact[caption], rtol=1e-2, atol=1e-2)


# --- target captions -------------------------------------------------------------------------------------------------


def with_targets(world: Path, place: Path) -> list[dict[str, str]]:
    """`train.tsv` with captions in other words, and what the generator is asked for beside them."""
    rows = list(csv.DictReader((world / "train.tsv").open(), delimiter="\t"))
    rows = [
        {"caption": f"draw me {row['caption']}", "target_caption": row["caption"], "image": row["image"]}
        for row in rows
    ]
    rows[3]["target_caption"] = ""
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    place.write_text("\n".join(lines) + "\n")
    return rows


@pytest.mark.parametrize("streaming", (False, True))
def test_the_generator_is_asked_for_the_target_caption(small_world, tmp_path, streaming):
    rows = with_targets(small_world, tmp_path / "train.tsv")
    arguments = PrecomputeArguments(
        [str(tmp_path / "train.tsv")],
        str(tmp_path / "cache"),
        image_generator=str(small_world / "models" / "image_generator"),
        image_folder=[str(small_world)],
        streaming=streaming,
        device="cpu",
    )
    precompute(arguments)
    targets = TextTargetsCache(tmp_path / "cache")
    assert rows[0]["target_caption"] in targets and rows[0]["caption"] not in targets
    assert rows[3]["caption"] in targets  # where nothing is said, the caption itself


def test_a_batch_holds_the_captions_tokens_and_the_target_captions_conditioning(small_world, tmp_path, recipe_with):
    rows = with_targets(small_world, tmp_path / "train.tsv")
    data = open_data(str(tmp_path / "train.tsv"), image_folder=str(small_world))
    recipe = recipe_with()
    gill, processor = build_model(recipe.model, torch.float32, 0, recipe.data.cache)
    collator = build_collator(recipe, gill, processor)
    collator.image_features = None
    batch = collator([data[0]])
    expected = collator.text_targets[rows[0]["target_caption"]]["prompt_embeds"]
    assert torch.equal(batch["target_conditioning"]["prompt_embeds"][0], expected)
    assert (
        collator.caption_ids(rows[0]["caption"]) == batch["input_ids"][1][: batch["attention_mask"][1].sum()].tolist()
    )


def test_a_column_of_target_captions_can_be_named(small_world, tmp_path):
    with_targets(small_world, tmp_path / "train.tsv")
    text = (tmp_path / "train.tsv").read_text().replace("target_caption", "plain", 1)
    (tmp_path / "train.tsv").write_text(text)
    data = open_data(str(tmp_path / "train.tsv"), image_folder=str(small_world), target_caption_column="plain")
    assert not data[0]["target_caption"].startswith("draw me") and data[0]["caption"].startswith("draw me")
    unnamed = open_data(str(tmp_path / "train.tsv"), image_folder=str(small_world))
    assert unnamed[0]["target_caption"] == unnamed[0]["caption"]
    with pytest.raises(ValueError, match="expected 'other' among them"):
        open_data(str(tmp_path / "train.tsv"), image_folder=str(small_world), target_caption_column="other")
