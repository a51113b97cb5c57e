"""DreamLLM's training on records is the authors': batches, losses and gradients, to float32.

`golden/dream/README.md` says what each array is; `t` numbers the cases `train` of its `cases.json`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gill import GillProcessor
from pipeline_gill import GillPipeline
from tests.dream_fixtures import as_authors, assert_close
from training_gill.denoising_loss import DenoisingDraw, DenoisingLoss
from training_gill.record_collator import RecordCollator
from training_gill.record_step import RecordTrainingStep
from training_gill.records import PairRecord, Record, RecordImage, read_conversation, read_document
from training_gill.step_losses import LossWeights

_DRAWN = ("latents", "noise", "timesteps")


def record_of(sample: dict[str, Any], images: list[Image.Image]) -> tuple[Record, str]:
    def find_image(name: str) -> Image.Image:
        return images[int(Path(name).stem)]

    kind = sample["kind"]
    if kind in ("text_to_image", "image_to_text"):
        return PairRecord(RecordImage(images[sample["image"]], str(sample["image"])), sample["text"]), kind
    if kind == "conversation":
        return read_conversation(sample["record"], find_image), "both"
    fields = sample if kind == "document" else sample["record"]
    return read_document(fields, find_image, instructed=kind == "instruct"), "both"


def batch_of(case: dict[str, Any], processor: GillProcessor, images: list[Image.Image]) -> dict[str, Any]:
    collator = RecordCollator(processor, target_size=16, max_length=case.get("max_length", 2048))
    examples = []
    for index, sample in enumerate(case["samples"]):
        record, direction = record_of(sample, images)
        examples.append({"index": index, "name": sample["kind"], "record": record, "direction": direction})
    batch = collator(examples)
    assert not batch.pop("skipped") and not batch.pop("num_too_small")
    return batch


@pytest.mark.parametrize("number", range(6))
def test_records_become_the_authors_batches(number, dream_pipeline, dream_cases, dream_arrays, dream_images) -> None:
    model, processor, prefix = dream_pipeline.model, dream_pipeline.processor, f"t{number}."
    batch = batch_of(dream_cases["train"][number], processor, dream_images)
    mask = dream_arrays[f"{prefix}attention_mask"]
    assert batch["attention_mask"].tolist() == mask.astype(int).tolist()
    ids = np.where(mask, np.array(as_authors(batch["input_ids"], model)), 0)
    assert ids.tolist() == np.where(mask, dream_arrays[f"{prefix}input_ids"], 0).tolist()
    # The first label is never used.
    assert batch["labels"][:, 1:].tolist() == dream_arrays[f"{prefix}labels"][:, 1:].tolist()
    for name, ours in (("images", "pixel_values"), ("images_dm", "target_images")):
        if f"{prefix}{name}" in dream_arrays:
            assert_close(batch[ours], dream_arrays[f"{prefix}{name}"])
        else:
            assert ours not in batch


@pytest.mark.parametrize("number", range(6))
def test_losses_and_gradients_are_the_authors(
    number, dream_repository, dream_cases, dream_arrays, dream_images
) -> None:
    case, prefix = dream_cases["train"][number], f"t{number}."
    pipeline = GillPipeline.from_pretrained(dream_repository)
    model = pipeline.model
    batch = batch_of(case, pipeline.processor, dream_images)
    del batch["index"]
    language, diffusion = case["loss_weights"]
    learns = ["language_model", "visual_projection", "img_embeddings", *(["mapper"] if diffusion else [])]
    denoising = DenoisingLoss(pipeline.image_generator, model.config.conditioning_tensors) if diffusion else None
    others = dict.fromkeys(("captioning", "contrastive", "conditioning", "reconstruction"), 0.0)
    weights = LossWeights(language=language, denoising=diffusion, **others)
    step = RecordTrainingStep(model, weights, learns, denoising)
    draw = None
    if f"{prefix}latents" in dream_arrays:
        draw = DenoisingDraw(*(torch.from_numpy(dream_arrays[f"{prefix}{name}"]) for name in _DRAWN))
    output = step(**batch, draw=draw)
    for ours, theirs in (("language", "lm_loss"), ("denoising", "vm_loss")):
        if f"{ours}_sum" in output and output[f"{ours}_count"]:
            assert_close(output[f"{ours}_sum"] / output[f"{ours}_count"], dream_arrays[prefix + theirs])
    assert_close(output["loss"], dream_arrays[f"{prefix}loss"])
    output["loss"].backward()
    found = {original_name(name): weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    expected = [name.removeprefix(prefix) for name in dream_arrays if name.startswith(f"{prefix}grad")]
    assert expected
    for name in expected:
        kind, _, tensor = name.partition(".")
        whole = dream_arrays[prefix + name]
        own = found.get(tensor.removesuffix(".last8"), torch.zeros(()))
        if kind == "gradnorm":
            assert_close(own.norm(), whole)
        elif not whole.any():
            assert not own.any()
        else:
            assert_close(own[-8:] if tensor.endswith(".last8") else own.reshape(whole.shape), whole)


def original_name(name: str) -> str:
    for ours, theirs in (
        ("language_model.", ""),
        ("visual_projection", "comprehension_projector"),
        ("mapper.output_projection", "creation_projector"),
        ("img_embeddings.weight", "dream_queries"),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
