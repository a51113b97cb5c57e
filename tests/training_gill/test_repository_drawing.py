"""What a trained DreamLLM draws with is what a converted one does."""

import json
from pathlib import Path

import pytest

from conversion.dreamllm import CHAT_TEMPLATE
from conversion.dreamllm_assembly import GUIDANCE_SCALE, NUM_INFERENCE_STEPS
from modeling_gill import GillProcessor
from pipeline_gill import GillPipeline
from tests.training_gill.small_records import record_entries
from training_gill import read_recipe, train
from training_gill.recipe import RecipeError

_DRAWING = ("scheduler", "num_inference_steps", "guidance_scale", "truncate_text")


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_recipes_of_dreamllm_draw_and_chat_as_its_converted_releases(stage: int) -> None:
    model = read_recipe(f"dreamllm_stage{stage}", use_cpu=True).model
    assert model.chat_template == CHAT_TEMPLATE
    assert (model.num_inference_steps, model.guidance_scale) == (NUM_INFERENCE_STEPS, GUIDANCE_SCALE)
    assert (model.scheduler, model.truncate_text, model.negative_conditioning) == ("ddpm", False, "empty_prompt")


def test_a_trained_repository_draws_with_ddpm_and_the_generators_numbers(small_world: Path, tmp_path: Path) -> None:
    model = read_recipe("dreamllm_stage1", use_cpu=True).model
    drawing = {name: getattr(model, name) for name in _DRAWING}
    train(record_entries(small_world, tmp_path / "out", stage="creation", max_steps=1, **drawing))
    theirs = small_world / "models/image_generator/scheduler/scheduler_config.json"
    expected, found = (
        json.loads(path.read_text()) for path in (theirs, tmp_path / "out/scheduler/scheduler_config.json")
    )
    assert expected["_class_name"] != found["_class_name"] == "DDPMScheduler"
    for name in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "clip_sample"):
        assert found[name] == expected[name]
    assert GillProcessor.from_pretrained(tmp_path / "out").truncate_text is False
    pipeline = GillPipeline.from_pretrained(tmp_path / "out")
    assert type(pipeline.scheduler).__name__ == "DDPMScheduler"
    assert (pipeline.config.num_inference_steps, pipeline.config.guidance_scale) == (150, 2.0)
    drawn = pipeline("a red circle", decision="generate", force_image=True, num_inference_steps=2)
    assert drawn.images[0].size == (32, 32)


def test_a_scheduler_that_the_generator_has_no_numbers_for_is_refused(small_world: Path, tmp_path: Path) -> None:
    entries = record_entries(small_world, tmp_path / "out", stage="creation")
    with pytest.raises(RecipeError, match="`scheduler` is 'pndm'; expected ddpm"):
        train({**entries, "scheduler": "pndm"})


def test_a_deepspeed_configuration_reaches_the_trainer_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import TrainingArguments

    zero = {"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto"}
    # Without DeepSpeed, the Trainer's arguments refuse it after they have received it.
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    for given in (zero, str(tmp_path / "zero3.json")):
        assert read_recipe("dreamllm_stage1", use_cpu=True, deepspeed=given).training.deepspeed == given
