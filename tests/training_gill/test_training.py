"""`train`: what it learns, what it writes, what it prints, what it refuses."""

import contextlib
import io
import json
import math
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from transformers import Trainer

from gill import cli
from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill import GillPipeline
from tests.hub_fixtures import run_python
from tests.training_gill.conftest import FEW_STEPS, write_recipe, write_world
from training_gill import train
from training_gill.caches import CacheError
from training_gill.callbacks import mean_frozen_norm
from training_gill.checkpoints import last_checkpoint
from training_gill.model_building import build_model
from training_gill.recipe import RecipeError, read_recipe
from training_gill.trainer import GillTrainer, TooManyUnreadable
from training_gill.training_data import DataError

LOSSES = ("captioning_loss", "language_loss", "contrastive_loss", "conditioning_loss")


def logged(recipe):
    """What the run logged, from its last checkpoint."""
    state = json.loads((Path(str(last_checkpoint(recipe.training.output_dir))) / "trainer_state.json").read_text())
    return state["log_history"]


def spoil(world, recipe_file, change):
    """Train on a spoilt copy of the data."""
    lines = (world / "train.tsv").read_text().splitlines()
    (world / "train.tsv").write_text("\n".join(change(lines)) + "\n")
    entries = yaml.safe_load(recipe_file.read_text())
    entries |= {"train_data": str(world / "train.tsv"), "validation_data": None}
    recipe_file.write_text(yaml.safe_dump(entries))


@pytest.mark.slow
def test_some_hundred_steps_bring_every_loss_down_and_retrieval_far_above_chance(tmp_path):
    world = write_world(tmp_path / "world", steps=200)
    options = FEW_STEPS | {
        "max_steps": 250,
        "per_device_train_batch_size": 16,
        "logging_steps": 25,
        "save_steps": 250,
        "eval_strategy": "steps",
        "eval_steps": 250,
        "learning_rate": 3e-3,
    }
    recipe = read_recipe(write_recipe(world, tmp_path / "out", tmp_path / "recipe.yaml"), **options)
    measured = train(recipe)
    history = [entry for entry in logged(recipe) if "captioning_loss" in entry]
    for name in LOSSES:
        assert history[-1][name] < 0.8 * history[0][name], name
    # Of 64 images, chance finds the right one first in 1.6 %, and among five in 7.8 %.
    assert measured["eval_caption_to_image_top1"] > 0.25
    assert measured["eval_image_to_caption_top1"] > 0.25
    assert measured["eval_caption_to_image_top5"] > 0.6
    assert measured["eval_captioning_accuracy"] > 0.4


@pytest.fixture(scope="module")
def trained(small_world, tmp_path_factory):
    """A run of three steps, its output folder and what it printed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(small_world, folder / "out", folder / "recipe.yaml")
    options = {"max_steps": 3, "save_steps": 3, "logging_steps": 1, "eval_steps": 3, "panel_steps": 3, "use_cpu": True}
    options |= {"gradient_accumulation_steps": 2, "report_to": "tensorboard"}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        train(recipe, **options)
    return folder / "out", said.getvalue()


def test_the_output_is_a_hub_repository(trained):
    out, _ = trained
    pipeline = GillPipeline.from_pretrained(out)
    pipeline.set_progress_bar_config(disable=True)
    answer = pipeline("draw me a small red circle", force_image=True, num_inference_steps=1, height=32, width=32)
    assert len(answer.image_pieces[0]) == 1
    with safe_open(out / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith(("language_model", "vision_model"))]  # noqa: SIM118
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    assert {"config.json", "pipeline_gill.py", "model_index.json", "tokenizer.json"} <= {p.name for p in out.iterdir()}
    assert not (out / "adapter_config.json").exists()
    assert not (out / "training_args.bin").exists()


def test_a_language_model_with_a_chat_template_keeps_it_and_its_end_token(small_world, recipe_with, tmp_path):
    folder = shutil.copytree(small_world / "models" / "language_model", tmp_path / "instruct")
    template = "{{ bos_token }}{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2], "temperature": 0.5}))
    recipe = recipe_with(language_model=str(folder))
    model, processor = build_model(recipe.model, torch.float32, 0)
    assert processor.chat_template.endswith(template) and not processor.truncate_text
    ends = [7, 2, processor.tokenizer.eos_token_id]
    assert model.generation_config.eos_token_id == list(dict.fromkeys(ends))
    processor.save_pretrained(tmp_path / "saved")
    assert GillProcessor.from_pretrained(tmp_path / "saved").chat_template == processor.chat_template
    plain = build_model(recipe_with().model, torch.float32, 0)
    assert plain[0].generation_config.eos_token_id is None and plain[1].truncate_text


def test_the_recipe_is_recorded_for_the_card(trained):
    record = json.loads((trained[0] / "training.json").read_text())
    assert record["steps"] == 3
    assert record["training"]["learning_rate"] == 3e-3
    assert record["losses"]["contrastive_weight"] == 1.0
    assert "eval_caption_to_image_top1" in record["measured"]


def test_a_run_says_what_it_trains_on_what_and_where_it_writes(trained):
    out, said = trained
    assert "trains " in said
    assert " parameters: " in said
    assert "256 examples" in said
    assert str(out) in said
    assert "the negatives of retrieval are the 31 other pairs of one of them" in said


def test_every_loss_accuracy_norm_and_the_speed_are_logged(trained):
    state = json.loads((trained[0] / "checkpoint-3" / "trainer_state.json").read_text())
    entry = next(entry for entry in state["log_history"] if "loss" in entry)
    assert {*LOSSES, "captioning_accuracy", "caption_to_image_top1", "caption_to_image_top5"} <= entry.keys()
    assert {"image_to_caption_top1", "image_to_caption_top5", "grad_norm", "img_row_norm"} <= entry.keys()
    assert {"adapter_norm", "examples_per_second"} <= entry.keys()
    assert entry["loss"] == pytest.approx(sum(entry[name] for name in LOSSES), rel=1e-4)


def test_now_and_then_an_image_panel_is_written(trained):
    panel = Image.open(trained[0] / "panels" / "step-000003.png")
    assert panel.width == 4 * 128  # caption, true, retrieved, generated
    assert any(path.name.startswith("events") for path in (trained[0] / "panels").iterdir())


def test_every_img_row_has_the_mean_length_of_the_frozen_rows(trained):
    model = GillForConditionalGeneration.from_pretrained(trained[0])
    processor = GillProcessor.from_pretrained(trained[0])
    used = sorted(processor.tokenizer.get_vocab().values())
    table = model.language_model.get_input_embeddings().weight
    rows = [i for i in used if i not in (model.config.image_token_id, *model.config.image_output_token_ids)]
    assert rows[-1] < table.shape[0] - 1  # there are unused rows, which do not count
    norm = mean_frozen_norm(model, used)
    assert norm == pytest.approx(float(table[rows].norm(dim=1).mean()), rel=1e-6)
    torch.testing.assert_close(model.img_embeddings.weight.norm(dim=1), torch.full((4,), norm))


def test_the_optimizer_holds_the_adapters_alone(trained):
    state = torch.load(trained[0] / "checkpoint-3" / "optimizer.pt", weights_only=True)
    with safe_open(trained[0] / "model.safetensors", "pt") as file:
        adapters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert sum(entry["exp_avg"].numel() for entry in state["state"].values()) == adapters


def test_an_existing_repository_is_trained_on(trained, recipe_with, tmp_path):
    train(recipe_with(start_from=trained[0], max_steps=1, learning_rate=0.0, weight_decay=0.0))
    before, after = (
        GillForConditionalGeneration.from_pretrained(folder).visual_projection.weight
        for folder in (trained[0], tmp_path / "out")
    )
    assert torch.equal(before, after)


def test_the_learning_rate_falls_by_steps_after_the_warm_up(recipe_with):
    recipe = recipe_with(
        max_steps=6,
        warmup_steps=2,
        lr_decay_every=2,
        lr_decay_factor=0.1,
        learning_rate=1.0,
        logging_steps=1,
        save_steps=6,
        conditioning_weight=0,
        captioning_weight=0,
        language_weight=0,
    )
    train(recipe)
    rates = [entry["learning_rate"] for entry in logged(recipe) if "loss" in entry]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.1, 0.1])


def test_retrieval_alone_trains_without_cache_or_generator(recipe_file, recipe_with):
    entries = yaml.safe_load(recipe_file.read_text())
    entries |= {"cache": None, "image_generator": None, "mapper_type": "none", "conditioning_weight": 0}
    recipe_file.write_text(yaml.safe_dump(entries))
    recipe = recipe_with(img_tokens="[RET]", num_image_output_tokens=1, img_logit_scaling="signed")
    train(recipe)
    assert GillPipeline.from_pretrained(recipe.training.output_dir).image_generator is None


def test_img_rows_begin_as_the_token_that_the_recipe_names(recipe_with):
    model, processor = build_model(recipe_with(initializer_token=".").model, torch.float32, seed=0)
    (token,) = processor.tokenizer(".", add_special_tokens=False).input_ids
    row = model.language_model.get_input_embeddings().weight[token]
    assert torch.equal(model.img_embeddings.weight, row.expand(model.config.num_image_output_tokens, -1))


@pytest.mark.parametrize("token", ["", ". .", "[IMG0]"])
def test_img_rows_cannot_begin_as_what_is_not_one_token(token, recipe_with):
    with pytest.raises(RecipeError, match="`initializer_token` must be one token"):
        build_model(recipe_with(initializer_token=token).model, torch.float32, seed=0)


# --- bad data --------------------------------------------------------------------------------------------------------


def test_unreadable_examples_are_left_out_counted_and_named(own_world, recipe_file, recipe_with, caplog):
    entries = yaml.safe_load(recipe_file.read_text())
    cache = own_world / "cache"
    shutil.copytree(f"{entries['cache']}/text_targets", cache / "text_targets")  # no features: images are opened
    (own_world / "images" / "train-00001.png").write_bytes(b"\x89PNG broken")
    (own_world / "images" / "train-00002.png").unlink()
    spoil(own_world, recipe_file, lambda lines: [*lines[:4], "\timages/train-00004.png", *lines[6:10]])
    recipe = recipe_with(cache=cache, max_steps=1, per_device_train_batch_size=8, max_unreadable=3)
    train(recipe)
    messages = [record.message for record in caplog.records if "Left out" in record.message]
    assert len(messages) == 3
    assert any("train-00001.png" in message for message in messages)
    assert any("train-00002.png" in message for message in messages)
    assert any("caption is ''" in message for message in messages)
    assert json.loads((Path(recipe.training.output_dir) / "training.json").read_text())["unreadable_examples"] == 3


@pytest.mark.parametrize("accumulated", (1, 2))
def test_a_batch_of_which_nothing_can_be_read_ends_nothing(accumulated, own_world, recipe_file, recipe_with):
    entries = yaml.safe_load(recipe_file.read_text())
    cache = own_world / "cache"
    shutil.copytree(f"{entries['cache']}/text_targets", cache / "text_targets")  # no features: images are opened
    for number in range(8):
        (own_world / "images" / f"train-{number:05d}.png").write_bytes(b"broken")
    spoil(own_world, recipe_file, lambda lines: lines[:9])
    options = {"cache": cache, "max_steps": 1, "per_device_train_batch_size": 4}
    recipe = recipe_with(**options, gradient_accumulation_steps=accumulated, logging_steps=1)
    train(recipe)
    record = json.loads((Path(recipe.training.output_dir) / "training.json").read_text())
    assert record["unreadable_examples"] == 4 * accumulated
    assert all(torch.isfinite(weight).all() for weight in weights_of(recipe).values())


def test_an_evaluation_batch_of_which_nothing_can_be_read_ends_nothing(own_world, recipe_file, recipe_with):
    entries = yaml.safe_load(recipe_file.read_text())
    cache = own_world / "cache"
    shutil.copytree(f"{entries['cache']}/text_targets", cache / "text_targets")
    for number in range(4):
        (own_world / "images" / f"validation-{number:05d}.png").write_bytes(b"broken")
    entries["validation_data"] = str(own_world / "validation.tsv")
    recipe_file.write_text(yaml.safe_dump(entries))
    metrics = train(recipe_with(cache=cache, max_steps=1, per_device_eval_batch_size=4))
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["eval_caption_to_image_top5"] > 0


HOOKS = {
    "_get_train_sampler",
    "_get_num_items_in_batch",
    "_get_output_dir",
    "_save_checkpoint",
    "_save",
    "_load_from_checkpoint",
}


def test_the_hooks_of_transformers_that_the_trainer_overrides_or_calls_are_there():
    own = {name for name in vars(GillTrainer) if name.startswith("_") and hasattr(Trainer, name) and name[1] != "_"}
    assert own == HOOKS
    assert all(hasattr(Trainer, name) for name in ("_push_from_checkpoint", "_finish_current_push"))


def test_too_many_unreadable_examples_end_the_run(own_world, recipe_file, recipe_with):
    spoil(own_world, recipe_file, lambda lines: [lines[0], *(f"\t{line.split(chr(9))[1]}" for line in lines[1:20])])
    with pytest.raises(TooManyUnreadable, match="max_unreadable` 5"):
        train(recipe_with(max_unreadable=5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: ["what\tfile", *lines[1:]], "['what', 'file']"),
        (lambda lines: lines[:1], "only a header"),
        (lambda lines: [*lines[:3], f"{lines[3]}\tmore", *lines[4:]], "line 4: 3 fields"),
    ],
)
def test_a_tsv_with_a_wrong_header_or_nothing_in_it_is_refused(
    change, said, own_world, recipe_file, recipe_with, capsys
):
    spoil(own_world, recipe_file, change)
    assert cli.main(["train", str(recipe_file), "--use_cpu", "true", "--eval_strategy", "no"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("another generator", {"image_generator": "other"}),
        ("another image encoder", {"vision_model": "other"}),
    ],
)
def test_a_cache_made_with_another_model_is_refused_before_the_first_step(
    what, options, recipe_with, small_world, tmp_path
):
    name = next(iter(options))
    shutil.copytree(small_world / "models" / name, tmp_path / "other")
    with pytest.raises(CacheError, match="other"):
        train(recipe_with(**{name: tmp_path / "other"}))


def test_a_cache_made_with_another_cut_is_refused_before_the_first_step(recipe_with, small_world, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(small_world / "cache", cut)
    info = json.loads((cut / "text_targets" / "info.json").read_text())
    (cut / "text_targets" / "info.json").write_text(json.dumps({**info, "image_generator_revision": "v2"}))
    with pytest.raises(CacheError, match="image_generator_revision 'v2' rather than 'main'"):
        train(recipe_with(cache=cut))


def test_a_cache_made_for_other_captions_is_refused_before_the_first_step(own_world, recipe_file, recipe_with):
    spoil(own_world, recipe_file, lambda lines: [*lines[:5], "a caption of another cut\timages/train-00001.png"])
    with pytest.raises(CacheError, match="1 of the 5 captions"):
        train(recipe_with())


def test_a_cache_that_was_interrupted_is_refused(recipe_with, small_world, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(small_world / "cache", half)
    info = json.loads((half / "text_targets" / "info.json").read_text())
    (half / "text_targets" / "info.json").write_text(json.dumps({**info, "complete": False}))
    with pytest.raises(CacheError, match="interrupted"):
        train(recipe_with(cache=half))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"train_data": "/no/such.tsv"}, DataError, "such.tsv"),
        ({"train_image_folder": "/no/such/folder"}, DataError, "image folder"),
        ({"language_model": "/no/such/model"}, RecipeError, "language_model"),
        ({"max_length": 5}, RecipeError, "max_length"),
        ({"streaming": "true", "max_steps": -1}, RecipeError, "max_steps"),
        (
            {"captioning_weight": 0, "language_weight": 0, "contrastive_weight": 0, "conditioning_weight": 0},
            RecipeError,
            "nothing to train",
        ),
        ({"resume_from_checkpoint": "/no/such/checkpoint"}, RecipeError, "resume_from_checkpoint"),
        ({"lora": '{"target_modules": ["nothing_like_it"]}'}, RecipeError, "nothing_like_it"),
    ],
)
def test_what_cannot_be_followed_is_said_before_the_first_step(options, error, said, recipe_with):
    with pytest.raises(error, match=said):
        train(recipe_with(**options))


def test_a_checkpoint_of_another_recipe_is_refused(recipe_with):
    train(recipe_with(max_steps=1, save_steps=1))
    with pytest.raises(RecipeError, match="retrieval_head"):
        train(recipe_with(max_steps=2, save_steps=1, retrieval_dim=32))


def test_a_stream_of_shards_is_trained_on(recipe_file, recipe_with, small_world, tmp_path):
    lines = [line.split("\t") for line in (small_world / "train.tsv").read_text().splitlines()[1:33]]
    for shard in range(2):
        with tarfile.open(tmp_path / f"shard-{shard}.tar", "w") as tar:
            for number, (caption, name) in enumerate(lines[shard::2]):
                text = tmp_path / "caption.txt"
                text.write_text(caption)
                tar.add(small_world / name, f"{number:04d}.png")
                tar.add(text, f"{number:04d}.txt")
    cache = tmp_path / "cache"
    shutil.copytree(small_world / "cache" / "text_targets", cache / "text_targets")
    recipe = recipe_with(train_data=tmp_path / "shard-*.tar", streaming="true", cache=cache, max_steps=2)
    train(recipe)
    assert (tmp_path / "out" / "training.json").exists()


def test_precompute_refuses_a_folder_of_another_generator(small_world, tmp_path, capsys):
    cache = tmp_path / "cache"
    shutil.copytree(small_world / "cache", cache)
    shutil.copytree(small_world / "models" / "image_generator", tmp_path / "other")
    words = ["--dataset", str(small_world / "train.tsv"), "--image-generator", str(tmp_path / "other")]
    assert cli.main(["precompute", *words, "--out", str(cache)]) == 2
    assert "expected an empty folder" in capsys.readouterr().err


# --- beside training -------------------------------------------------------------------------------------------------


def weights_of(recipe):
    with safe_open(f"{recipe.training.output_dir}/model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_watching_changes_nothing(recipe_with, tmp_path):
    options = {"max_steps": 2, "lora": '{"r": 2, "lora_dropout": 0.5, "target_modules": ["q_proj"]}'}
    plain = recipe_with(**options)
    watched = recipe_with(
        **options, panel_steps=1, eval_strategy="steps", eval_steps=1, save_steps=1, output_dir=tmp_path / "watched"
    )
    train(plain)
    train(watched)
    first, second = weights_of(plain), weights_of(watched)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_in_mixed_precision_trained_weights_stay_float32(recipe_with):
    recipe = recipe_with(bf16="true")
    train(recipe)
    assert {weight.dtype for weight in weights_of(recipe).values()} == {torch.float32}
    assert logged_loss_is_finite(recipe)


def logged_loss_is_finite(recipe):
    record = json.loads((Path(recipe.training.output_dir) / "training.json").read_text())
    return all(math.isfinite(value) for value in record["measured"].values())


def test_an_evaluation_without_data_is_refused(recipe_file, recipe_with):
    entries = yaml.safe_load(recipe_file.read_text())
    recipe_file.write_text(yaml.safe_dump({**entries, "validation_data": None}))
    with pytest.raises(RecipeError, match="validation_data"):
        train(recipe_with(eval_strategy="steps"))


@pytest.mark.slow
def test_what_was_trained_is_pushed_to_the_hub_without_checkpoints(recipe_file, hub_server):
    code = f"""
        from gill.cli import main
        options = ["--max_steps", "2", "--save_steps", "1", "--eval_strategy", "no", "--panel_steps", "0"]
        options += ["--use_cpu", "true", "--push_to_hub", "true", "--hub_model_id", "writer/gill-small"]
        assert main(["train", {str(recipe_file)!r}, *options]) == 0
        from huggingface_hub import list_repo_files
        print("\\nfiles:", *list_repo_files("writer/gill-small"))
        from pipeline_gill import GillPipeline
        print(type(GillPipeline.from_pretrained("writer/gill-small").model).__name__)
    """
    said = run_python(code, hub_server.environment, package=True).stdout
    assert said.strip().endswith("GillForConditionalGeneration")
    files = next(line for line in said.splitlines() if line.startswith("files:")).split()
    assert {"model.safetensors", "config.json", "pipeline_gill.py", "training.json"} <= {*files}
    assert not [name for name in files if name.startswith(("checkpoint-", ".unfinished"))]


@pytest.mark.slow
def test_a_repository_of_somebody_else_is_refused_before_the_first_step(recipe_file, hub_server):
    code = f"""
        from gill.cli import main
        options = ["--eval_strategy", "no", "--use_cpu", "true", "--push_to_hub", "true"]
        assert main(["train", {str(recipe_file)!r}, *options, "--hub_model_id", "somebody/gill"]) == 2
    """
    said = run_python(code, hub_server.environment, package=True).stderr
    assert "no write access to 'somebody/gill'" in said
