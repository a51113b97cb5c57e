"""The step over records has the losses and gradients of DreamLLM's authors, and of what inference does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline
from tests.training_gill.small_records import record_batch, small_denoising, small_dream
from training_gill.denoising_loss import DenoisingDraw, DenoisingLoss
from training_gill.record_step import RecordTrainingStep
from training_gill.step_losses import BatchTotals, LossWeights

EVERYTHING = ("language_model", "visual_projection", "img_embeddings", "mapper")
BOTH = LossWeights(0, 1, 0, 0, 0, 10)


def gradients(step: RecordTrainingStep, **batch: Any) -> dict[str, torch.Tensor]:
    step.zero_grad()
    step(**batch)["loss"].backward()
    return {name: w.grad.clone() for name, w in step.gill.named_parameters() if w.grad is not None}


# --- the authors' -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(6))
def test_losses_and_gradients_are_those_of_the_authors(case, dream_repository: Path, dream_cases, dream_arrays):
    arrays = {name.split(".", 1)[1]: values for name, values in dream_arrays.items() if name.startswith(f"t{case}.")}
    model = GillForConditionalGeneration.from_pretrained(dream_repository)
    config = model.config
    language, denoising = dream_cases["train"][case]["loss_weights"]
    loss = None
    if denoising:
        generator = GillPipeline.from_pretrained(dream_repository).image_generator
        loss = DenoisingLoss(generator, config.conditioning_tensors)
    learns = EVERYTHING if denoising else EVERYTHING[:-1]
    step = RecordTrainingStep(model, LossWeights(0, language, 0, 0, 0, denoising), learns, loss)
    ids = torch.from_numpy(arrays["input_ids"]).clone()
    queries = torch.tensor(config.image_output_token_ids)
    for row, column in (ids == config.image_output_start_token_id).nonzero().tolist():
        ids[row, column + 1 : column + 1 + len(queries)] = queries
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.from_numpy(arrays["attention_mask"]).long(),
        "labels": torch.from_numpy(arrays["labels"]),
    }
    if "images" in arrays:
        batch["pixel_values"] = torch.from_numpy(arrays["images"])
    if "latents" in arrays:
        batch["target_images"] = torch.from_numpy(arrays["images_dm"])
    draw = [torch.from_numpy(arrays[name]) for name in ("latents", "noise", "timesteps") if name in arrays]
    found = step(**batch, draw=DenoisingDraw(*draw) if draw else None)
    assert float(found["loss"].detach()) == pytest.approx(float(arrays["loss"]), rel=1e-4)
    if denoising and draw:
        torch.manual_seed(dream_cases["train"][case]["seed"])
        assert float(step(**batch)["loss"].detach()) == pytest.approx(float(arrays["loss"]), rel=1e-4)
    if denoising:
        mean = found.get("denoising_sum", torch.zeros(())) / found.get("denoising_count", torch.ones(()))
        assert float(mean) == pytest.approx(float(arrays["vm_loss"]), rel=1e-4)
    if language:
        mean = found["language_sum"] / found["language_count"]
        assert float(mean) == pytest.approx(float(arrays["lm_loss"]), rel=1e-4)
    found["loss"].backward()
    own = {
        "dream_queries": model.img_embeddings.weight,
        "creation_projector.weight": model.mapper.output_projection.weight,
        "comprehension_projector.weight": model.visual_projection.weight,
        "comprehension_projector.bias": model.visual_projection.bias,
        **dict(model.language_model.named_parameters()),
    }
    compared = 0
    for name, expected in arrays.items():
        kind, _, place = name.partition(".")
        if kind not in ("grad", "gradnorm"):
            continue
        weight = own[place.removesuffix(".last8")]
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        gradient = gradient[-8:] if place.endswith(".last8") else gradient
        value = gradient.norm().numpy() if kind == "gradnorm" else gradient.numpy().reshape(expected.shape)
        assert np.linalg.norm(value - expected) <= 1e-4 * max(np.linalg.norm(expected), 1e-6), name
        compared += 1
    assert compared > 20


# --- what a batch is --------------------------------------------------------------------------------------------------


def test_padding_on_either_side_changes_no_gradient():
    model, _ = small_dream()
    step = RecordTrainingStep(model.double(), BOTH, EVERYTHING, small_denoising(model))
    draw = DenoisingDraw(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([300]))
    right, left = (gradients(step, **record_batch(model, side), draw=draw) for side in ("right", "left"))
    assert right.keys() == left.keys() >= {"added_head.weight", "mapper.output_projection.weight"}
    for name in right:
        # The generator computes in float32.
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6 * float(right[name].abs().max()))


def test_rows_apart_add_up_to_the_batch():
    model, _ = small_dream()
    step = RecordTrainingStep(model, BOTH, EVERYTHING, small_denoising(model))
    draw = DenoisingDraw(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([300]))
    batch = record_batch(model)
    whole = gradients(step, **batch, draw=draw)
    totals = BatchTotals(*(max(count, 1.0) for count in step.count(batch)))
    assert totals.images == 1 and totals.language_tokens == float((batch["labels"][:, 1:] != -100).sum())
    texts = ("input_ids", "attention_mask", "labels")
    first = {name: batch[name][:1] for name in texts} | {"pixel_values": batch["pixel_values"][:1], "draw": draw}
    others = {name: batch[name][1:] for name in texts} | {"pixel_values": batch["pixel_values"][1:]}
    parts = [gradients(step, **first, target_images=batch["target_images"], totals=totals)]
    parts.append(gradients(step, **others, totals=totals))
    for name, expected in whole.items():
        found = sum(part.get(name, torch.zeros_like(expected)) for part in parts)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_a_batch_of_which_nothing_could_be_read_reaches_everything_that_learns():
    model, _ = small_dream()
    step = RecordTrainingStep(model, BOTH, EVERYTHING, small_denoising(model))
    nothing = torch.zeros(0, 1, dtype=torch.long)
    loss = step(input_ids=nothing, attention_mask=nothing, labels=nothing)["loss"]
    loss.backward()
    assert float(loss.detach()) == 0
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
        assert weight.grad is None or not weight.grad.any()


def test_more_images_than_targets_are_refused():
    model, _ = small_dream()
    step = RecordTrainingStep(model, BOTH, EVERYTHING, small_denoising(model))
    batch = record_batch(model)
    batch["target_images"] = batch["target_images"].repeat(2, 1, 1, 1)
    with pytest.raises(ValueError, match="draws 1 images, but has 2 `target_images`"):
        step(**batch)


# --- what learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learns", "expected"),
    [
        (("mapper", "img_embeddings"), {"mapper", "img_embeddings"}),
        (("visual_projection",), {"visual_projection"}),
        (("added_rows", "mapper"), {"added_embeddings", "added_head", "mapper"}),
        (EVERYTHING, {*EVERYTHING, "added_embeddings", "added_head"}),
    ],
)
def test_what_is_named_learns_and_nothing_else(learns, expected):
    model, _ = small_dream()
    weights = BOTH if "mapper" in learns else LossWeights(0, 1, 0, 0)
    step = RecordTrainingStep(model, weights, learns, small_denoising(model) if weights.denoising else None)
    found = gradients(step, **record_batch(model))
    assert {name.split(".")[0] for name in found} == expected
    assert {name.split(".")[0] for name, w in model.named_parameters() if w.requires_grad} == expected
    assert (model.config.language_model_id is None) or "language_model" not in expected


@pytest.mark.parametrize(
    ("weights", "learns", "message"),
    [
        (LossWeights(), ("visual_projection",), "language, denoising and conditioning"),
        (LossWeights(0, 0, 0, 0), ("visual_projection",), "expected some of them"),
        (LossWeights(0, 1, 0, 0), ("mapper",), "mapper is to learn"),
        (LossWeights(0, 1, 0, 0), ("queries",), "must be some of"),
        (LossWeights(0, 1, 0, 0), (), "must be some of"),
        (LossWeights(0, 1, 0, 0, 0, 1), ("mapper",), "expected its generator"),
    ],
)
def test_weights_and_parts_that_train_nothing_are_refused(weights, learns, message):
    model, _ = small_dream()
    with pytest.raises(ValueError, match=message):
        RecordTrainingStep(model, weights, learns)


def test_the_distillation_and_the_denoising_loss_are_added():
    model, _ = small_dream()
    batch = record_batch(model)
    batch["target_conditioning"] = {"prompt_embeds": torch.randn(1, 3, 16)}
    draw = DenoisingDraw(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([300]))

    def loss(conditioning: float, denoising: float) -> float:
        weights = LossWeights(0, 0, 0, conditioning, 0, denoising)
        step = RecordTrainingStep(model, weights, ("mapper",), small_denoising(model) if denoising else None)
        return float(step(**batch, draw=draw)["loss"].detach())

    assert loss(2, 3) == pytest.approx(2 * loss(1, 0) + 3 * loss(0, 1), rel=1e-5)


# --- conditions that are dropped --------------------------------------------------------------------------------------


def test_a_dropped_condition_is_the_empty_prompt_as_inference_reads_it():
    model, processor = small_dream()
    loss = small_denoising(model, condition_dropout=1.0)
    empty = [processor.tokenizer.bos_token_id, *model.config.image_output_run_ids]
    step = RecordTrainingStep(model, LossWeights(0, 0, 0, 0, 0, 1), ("mapper", "img_embeddings"), loss, empty)
    draw = DenoisingDraw(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([300]))
    for side in ("right", "left"):
        found = step(**record_batch(model, side), draw=draw)["loss"]
        own = model(input_ids=torch.tensor([empty]))["conditioning"]
        expected = small_denoising(model)(own, draw=draw)
        torch.testing.assert_close(found, expected[0])
    found.backward()
    assert model.img_embeddings.weight.grad.abs().max() > 0


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learns", (EVERYTHING, ("mapper", "img_embeddings")))
def test_recomputed_activations_give_the_same_gradients(learns):
    model, _ = small_dream()
    step = RecordTrainingStep(model, BOTH, learns, small_denoising(model))
    batch = record_batch(model)
    draw = DenoisingDraw(torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8), torch.tensor([300]))
    plain = gradients(step, **batch, draw=draw)
    calls = []
    layer = model.language_model.get_decoder().layers[0]
    layer.self_attn.register_forward_hook(lambda *_: calls.append(None))
    step.activation_checkpointing_enable()
    found = gradients(step, **batch, draw=draw)
    assert len(calls) == 2
    assert found.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(found[name], plain[name])


def test_dropout_of_a_frozen_language_model_is_not_switched_on_by_recomputing():
    model, _ = small_dream("gpt2")
    step = RecordTrainingStep(model, BOTH, ("mapper",), small_denoising(model))
    with pytest.raises(ValueError, match="dropout of the frozen language model"):
        step.activation_checkpointing_enable()
    assert not model.language_model.training


def test_a_language_model_in_bfloat16_trains_adapters_in_float32():
    model, _ = small_dream()
    model.language_model.to(torch.bfloat16)
    step = RecordTrainingStep(model, BOTH, ("mapper", "visual_projection", "img_embeddings"), small_denoising(model))
    found = gradients(step, **record_batch(model))
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
