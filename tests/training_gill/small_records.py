"""A small DreamLLM with batches of records, and recipes that train one, for tests of training from records."""

from pathlib import Path
from typing import Any

import torch

from modeling_gill import GillForConditionalGeneration, GillProcessor
from tests.small_dream import AROUND_IMAGES, NUM_PATCHES, small_dream_model, small_dream_processor
from tests.small_generators import small_generator
from training_gill.denoising_loss import DenoisingLoss, DenoisingOptions


def small_dream(language_model: str = "llama", **fields: Any) -> tuple[GillForConditionalGeneration, GillProcessor]:
    """A DreamLLM with random weights, whose language model lacks the tokens around images."""
    processor = small_dream_processor()
    rows = processor.image_token_id
    options: dict[str, Any] = {
        "num_rows": rows,
        "added_token_ids": list(range(rows, processor.image_output_token_ids[0])),
        "num_visual_tokens": NUM_PATCHES,
        "conditioning_dim": 16,
        **fields,
    }
    return small_dream_model(processor, language_model, **options), processor


def small_denoising(model: GillForConditionalGeneration, **options: Any) -> DenoisingLoss:
    """The denoising loss of a small Stable Diffusion."""
    generator = small_generator("stable-diffusion-1.5")
    return DenoisingLoss(generator, model.config.conditioning_tensors, DenoisingOptions(**options))


def record_batch(model: GillForConditionalGeneration, side: str = "right") -> dict[str, Any]:
    """Three rows: one draws an image and reads it, one reads an image, one is text alone."""
    config, random = model.config, torch.Generator().manual_seed(0)
    texts = [torch.randint(10, 200, (length,), generator=random).tolist() for length in (4, 7, 5, 3)]
    drawn, read = config.image_output_run_ids, config.image_input_run_ids
    ids = [[0, *texts[0], *drawn, *read, *texts[1], 2], [0, *read, *texts[2], 2], [0, *texts[3], 2]]
    ignored = {config.image_token_id, *drawn[1:], *read}
    longest = max(map(len, ids))

    def padded(row: list[int], fill: int) -> list[int]:
        missing = [fill] * (longest - len(row))
        return row + missing if side == "right" else missing + row

    return {
        "index": torch.arange(3),
        "input_ids": torch.tensor([padded(row, 1) for row in ids]),
        "attention_mask": torch.tensor([padded([1] * len(row), 0) for row in ids]),
        "labels": torch.tensor([padded([-100 if i in ignored else i for i in row], -100) for row in ids]),
        "pixel_values": torch.randn(2, 3, 16, 16, generator=random),
        "target_images": torch.rand(1, 3, 16, 16, generator=random) * 2 - 1,
    }


def record_entries(world: Path, out: Path, **entries: Any) -> dict[str, Any]:
    """A recipe over a small world that trains a new DreamLLM for a few steps from pairs."""
    return {
        "language_model": str(world / "models" / "language_model"),
        "vision_model": str(world / "models" / "vision_model"),
        "image_generator": str(world / "models" / "image_generator"),
        "mapper_type": "projection",
        "num_image_output_tokens": 4,
        "num_visual_tokens": None,
        "vision_pooling": "patches",
        "vision_feature_layer": -2,
        "retrieval_dim": None,
        "predict_image_output_tokens": False,
        "image_token": "<im_patch>",
        **AROUND_IMAGES,
        "negative_conditioning": "empty_prompt",
        "train_data": [{"kind": "pairs", "files": str(world / "train.tsv")}],
        "max_length": 64,
        "output_dir": str(out),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 2e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "seed": 1,
        **entries,
    }
