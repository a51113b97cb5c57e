"""The cheap step has the losses and the gradients of the plain passes, and of the authors' code."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from modeling_gill import GillConfig, GillForConditionalGeneration
from tests.training_passes import plain_losses
from training_gill.collator import CaptionedImageCollator
from training_gill.step_losses import BatchTotals, LossWeights
from training_gill.training_step import AdapterTrainingStep

LOSSES = {
    "captioning": "captioning.ce",
    "language": "retrieval.ce",
    "contrastive": "contrastive",
    "conditioning": "gen",
}
# Our names, and what the authors call the same.
AUTHORS_NAMES = {
    "visual_projection": "visual_embeddings",
    "image_retrieval_head": "visual_fc",
    "text_retrieval_head": "ret_text_hidden_fcs.0.model",
    "mapper.input_projection": "gen_text_hidden_fcs.0.fc",
    "mapper.queries": "gen_text_hidden_fcs.0.query_embs",
    "mapper.transformer": "gen_text_hidden_fcs.0.tfm",
    "mapper.output_projection": "gen_text_hidden_fcs.0.model",
}


@pytest.fixture
def gill(golden_repository, golden_model):
    return GillForConditionalGeneration.from_pretrained(
        golden_repository, language_model=golden_model.language_model, vision_model=golden_model.vision_model
    )


@pytest.fixture
def exact_gill(golden_repository):
    """In float64: in float32, a unit of a ReLU that rounding pushes over zero changes gradients by 1e-4 and more."""
    return GillForConditionalGeneration.from_pretrained(golden_repository, dtype=torch.float64)


def golden_examples(case, images):
    count = len(case["captions"])
    targets = np.random.RandomState(case["seed"]).standard_normal((count, 77, 768)).astype(np.float32)
    return [
        {
            "index": i,
            "name": str(i),
            "key": "",
            "image": images[p],
            "caption": c,
            "target_conditioning": {"prompt_embeds": targets[i]},
        }
        for i, (p, c) in enumerate(zip(case["images"], case["captions"], strict=True))
    ]


def twelve_examples(images):
    captions = ["a cat", "the sun over the sea and the house", "what is in this photo ?", "a red car on the beach"] * 3
    rng = np.random.default_rng(0)
    return [
        {
            "index": i,
            "name": "",
            "key": "",
            "image": images[i],
            "caption": c,
            "target_conditioning": {"prompt_embeds": rng.standard_normal((77, 768))},
        }
        for i, c in enumerate(captions)
    ]


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same_gradients(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Of float64: what is left is the order of sums, some hundred times its unit roundoff of 1.1e-16."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.dtype == torch.float64
        assert float((found[name] - gradient).abs().max()) <= 1e-10 * float(gradient.abs().max()), name


@pytest.mark.parametrize("number", (0, 1))
def test_losses_and_gradients_are_the_authors(number, exact_gill, golden_processor, golden_cases, gill_arrays, images):
    """
    Ours in float64, which no machine's order of sums changes, against the authors' in float32.

    A loss and an element of a gradient are off by some roundings of theirs. The authors' norm of a gradient of n
    elements is the root of a float32 sum of n squares: its relative error is at most sqrt(n) u with high probability
    (Higham and Mary, 2019: 2 sqrt(n) u for the sum, half of it for the root), u being 2^-24.
    """
    case, arrays, gill = golden_cases["train"][number], gill_arrays, exact_gill
    step = AdapterTrainingStep(gill)
    collator = CaptionedImageCollator(golden_processor, case["max_len"], packing=float(case["concat"]))
    output = step(**collator(golden_examples(case, images)))
    for ours, theirs in LOSSES.items():
        mean = float(output[f"{ours}_sum"] / output[f"{ours}_count"])
        assert mean == pytest.approx(float(arrays[f"t{number}.{theirs}"]), rel=1e-6)
    assert float(output["loss"].detach()) == pytest.approx(float(arrays[f"t{number}.total"]), rel=1e-6)
    output["loss"].backward()
    rows = torch.from_numpy(arrays[f"t{number}.grad.input_embeddings.weight"])
    assert float((gill.img_embeddings.weight.grad - rows).abs().max()) <= 1e-6 * float(rows.abs().max())
    assert float(gill.logit_scale.grad) == pytest.approx(float(arrays[f"t{number}.grad.logit_scale"]), rel=1e-6)
    compared = 0
    for name, gradient in gradients(gill).items():
        ours = next((prefix for prefix in AUTHORS_NAMES if name.startswith(prefix)), None)
        if ours is not None:
            expected = float(arrays[f"t{number}.gradnorm.{AUTHORS_NAMES[ours]}{name[len(ours) :]}"])
            bound = gradient.numel() ** 0.5 * 2.0**-24
            assert float(gradient.norm()) == pytest.approx(expected, rel=bound), name
            compared += 1
    assert compared == sum(key.startswith(f"t{number}.gradnorm.") for key in arrays)


@pytest.mark.parametrize("number", (0, 1))
def test_the_losses_of_float32_are_the_authors_too(number, gill, golden_processor, golden_cases, gill_arrays, images):
    case = golden_cases["train"][number]
    collator = CaptionedImageCollator(golden_processor, case["max_len"], packing=float(case["concat"]))
    with torch.no_grad():
        output = AdapterTrainingStep(gill)(**collator(golden_examples(case, images)))
    # Sums over at most a few thousand terms, each rounded at about a hundred places: 1e-5 is 168 roundings in a row.
    for ours, theirs in LOSSES.items():
        mean = float(output[f"{ours}_sum"] / output[f"{ours}_count"])
        assert mean == pytest.approx(float(gill_arrays[f"t{number}.{theirs}"]), rel=1e-5)


def test_reconstruction_asks_an_image_alone_for_the_conditioning_of_its_caption(gill, golden_processor, images):
    examples = twelve_examples(images)[:3]
    batch = CaptionedImageCollator(golden_processor)(examples)
    output = AdapterTrainingStep(gill, LossWeights(0.0, 0.0, 0.0, 0.0, reconstruction=2.0))(**batch)
    losses = []
    for example in examples:
        # The prompt that is this image, with nothing around it.
        asked = gill(**golden_processor([[example["image"]]], add_img_tokens=True)).conditioning["prompt_embeds"]
        target = torch.as_tensor(example["target_conditioning"]["prompt_embeds"])
        losses.append((asked[0] - target).norm(dim=-1).mean())
    expected = 2.0 * torch.stack(losses).mean()
    torch.testing.assert_close(output["loss"].float(), expected.float(), rtol=1e-5, atol=1e-5)
    assert output["reconstruction_count"] == 3
    output["loss"].backward()
    trained = {name.split(".")[0] for name in gradients(gill)}
    assert trained == {"visual_projection", "img_embeddings", "mapper"}


@pytest.mark.parametrize("number", (0, 1))
def test_accumulating_two_halves_gives_the_gradients_of_the_whole_but_for_the_contrastive_loss(
    number, exact_gill, golden_processor, golden_cases, images
):
    # Its negatives are the other pairs of the same half.
    case = golden_cases["train"][number]
    step = AdapterTrainingStep(exact_gill, LossWeights(contrastive=0.0))
    collator = CaptionedImageCollator(golden_processor, case["max_len"], packing=float(case["concat"]))
    examples = golden_examples(case, images)
    whole = step(**collator(examples))
    whole["loss"].backward()
    expected = gradients(exact_gill)
    exact_gill.zero_grad()
    totals = BatchTotals(float(whole["captioning_count"]), float(whole["language_count"]), len(examples))
    for half in (examples[:2], examples[2:]):
        step(**collator(half), totals=totals)["loss"].backward()
    assert_same_gradients(gradients(exact_gill), expected)


@pytest.mark.parametrize("packing", (0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.0, 1.0))))
def test_the_cheap_step_equals_the_plain_forward(packing, exact_gill, golden_processor, images):
    gill = exact_gill
    batch = CaptionedImageCollator(golden_processor, 24, packing, seed=1)(twelve_examples(images))
    step = AdapterTrainingStep(gill)
    cheap = step(**batch)
    cheap["loss"].backward()
    found = gradients(gill)
    gill.zero_grad()
    features = gill.get_image_features(batch["pixel_values"]).pooler_output
    plain = sum(plain_losses(gill, batch, features, features, batch["target_conditioning"]).values())
    plain.backward()
    assert float(cheap["loss"].detach()) == pytest.approx(float(plain.detach()), rel=1e-10)
    assert_same_gradients(found, gradients(gill))


@pytest.mark.parametrize("packing", (1.0, pytest.param(0.0, marks=pytest.mark.slow)))
def test_images_that_stand_before_a_caption_are_read_as_the_plain_forward_reads_them(
    packing, exact_gill, golden_processor, images
):
    gill = exact_gill
    collator = CaptionedImageCollator(golden_processor, 24, packing, context=3, context_images=0.5, request="draw")
    batch = collator(twelve_examples(images))
    shown = batch["context_images"]
    assert len(shown) > 0 and len({*shown.tolist()}) > 1
    step = AdapterTrainingStep(gill, LossWeights(captioning=0.0, language=0.0))
    cheap = step(**batch)
    cheap["loss"].backward()
    found = gradients(gill)
    gill.zero_grad()
    features = gill.get_image_features(batch["pixel_values"]).pooler_output
    read = torch.cat([features, features[shown]])
    losses = plain_losses(gill, batch, read, features, batch["target_conditioning"])
    plain = losses["contrastive"] + losses["conditioning"]
    plain.backward()
    assert float(cheap["loss"].detach()) == pytest.approx(float(plain.detach()), rel=1e-10)
    assert_same_gradients(found, gradients(gill))


def test_only_adapters_get_gradients_and_frozen_models_stay_in_evaluation_mode(gill):
    step = AdapterTrainingStep(gill).train()
    trained = {name.split(".")[1] for name, weight in step.named_parameters() if weight.requires_grad}
    assert trained == {
        "visual_projection",
        "img_embeddings",
        "text_retrieval_head",
        "image_retrieval_head",
        "logit_scale",
        "mapper",
    }
    assert not gill.language_model.training
    assert not gill.vision_model.training
    assert gill.mapper.training


@pytest.mark.parametrize(
    ("left_out", "modules"),
    [
        ("captioning", {"visual_projection"}),
        ("contrastive", {"text_retrieval_head", "image_retrieval_head", "logit_scale"}),
        ("conditioning", {"mapper"}),
        ("language", set()),
    ],
)
def test_a_weight_of_zero_leaves_a_loss_its_parameters_and_its_cost_out(
    left_out, modules, gill, golden_processor, golden_cases, images, monkeypatch
):
    case = golden_cases["train"][0]
    batch = CaptionedImageCollator(golden_processor, 32, 0.0)(golden_examples(case, images))
    step = AdapterTrainingStep(gill, replace(LossWeights(), **{left_out: 0.0}))
    if left_out == "conditioning":
        monkeypatch.setattr(gill.mapper, "forward", lambda *_: pytest.fail("the mapper ran"))
    output = step(**batch)
    output["loss"].backward()
    assert f"{left_out}_sum" not in output
    reached = {name.split(".")[0] for name in gradients(gill)}
    assert modules.isdisjoint(reached)
    assert {name.split(".")[1] for name, weight in step.named_parameters() if weight.requires_grad} == reached


def test_weights_scale_their_losses(gill, golden_processor, golden_cases, images):
    batch = CaptionedImageCollator(golden_processor, 32, 0.0)(golden_examples(golden_cases["train"][0], images))
    output = AdapterTrainingStep(gill, LossWeights(captioning=0.5, conditioning=3.0))(**batch)
    means = {name: float(output[f"{name}_sum"] / output[f"{name}_count"]) for name in LOSSES}
    expected = 0.5 * means["captioning"] + means["language"] + means["contrastive"] + 3 * means["conditioning"]
    assert float(output["loss"].detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mapper", ("linear", "mlp", "encoder", "gill_mapper"))
def test_every_kind_of_mapper_trains(mapper, golden_model, golden_processor, golden_cases, images):
    fields = {**golden_model.config.to_dict(), "mapper_type": mapper, "mapper_hidden_size": 64, "mapper_ffn_dim": 64}
    gill = GillForConditionalGeneration(GillConfig(**fields), defer_backbones=True)
    gill.attach_backbones(golden_model.language_model, golden_model.vision_model)
    batch = CaptionedImageCollator(golden_processor, 32)(golden_examples(golden_cases["train"][0], images))
    AdapterTrainingStep(gill)(**batch)["loss"].backward()
    assert all(float(weight.grad.norm()) > 0 for weight in gill.mapper.output_projection.parameters())


def test_an_empty_batch_is_a_loss_of_zero_that_reaches_all_that_is_trained(gill, golden_processor):
    batch = CaptionedImageCollator(golden_processor)([])
    batch["image_features"] = torch.zeros(0, gill.config.vision_dim)
    step = AdapterTrainingStep(gill)
    output = step(**batch, target_conditioning={"prompt_embeds": torch.zeros(0, 77, 768)})
    output["loss"].backward()
    assert float(output["loss"].detach()) == 0
    assert all(w.grad is not None and not w.grad.any() for w in step.parameters() if w.requires_grad)


def test_nothing_to_train_is_refused(gill):
    with pytest.raises(ValueError, match="nothing to train"):
        AdapterTrainingStep(gill, LossWeights(0, 0, 0, 0))
