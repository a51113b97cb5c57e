"""Examples per second of a training step, against a straightforward step in three passes as the original's.

    python -m benchmarks.train_step [--device cuda --dtype bfloat16] [--batch-size 32] [--repeats 5]

OPT-125m's and CLIP ViT-B/16's sizes with random weights, caption lengths like CC3M's. The three-pass step runs the
language model over rows padded to 32 tokens (36 with the image) once for captioning, once for retrieval and once for
generation, and makes all logits. It is measured twice: with the images encoded for each pass, as the authors' code does
(`get_visual_embs`, which throws those for generation away), and with the images encoded for the two passes that use
them. Ours is measured twice, too: with the images encoded in the step, and with their features given, as after
`gill precompute --image-features`.
Both take the same batch; times are medians of interleaved runs, in CPU time on a CPU, which other processes change
less than wall time. Gradients are compared in float64, on fewer examples:
in float32 a unit of a ReLU that rounding pushes over zero makes more of a difference than is to be shown.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPVisionConfig, OPTConfig

from modeling_gill import GillConfig, GillForConditionalGeneration
from training_gill.collator import CaptionedImageCollator
from training_gill.losses import conditioning_loss, global_contrast
from training_gill.training_step import AdapterTrainingStep

MAX_LENGTH = 32
STEPS = ("authors' three passes", "three passes", "ours, images encoded", "ours, features given")
# How often an image is encoded by each of the steps in three passes.
ENCODINGS = {STEPS[0]: 3, STEPS[1]: 2}


def build_model(device: str, dtype: torch.dtype) -> GillForConditionalGeneration:
    """GILL over OPT-125m's and CLIP ViT-B/16's sizes; adapters in float32, frozen models in `dtype`."""
    torch.manual_seed(0)
    config = GillConfig(
        text_config=OPTConfig(dropout=0.1),  # OPT-125m's sizes are transformers' defaults
        vision_config=CLIPVisionConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
        ),
        use_decision_head=False,
        # As OPT's tokenizer places them: over unused rows, and beyond.
        image_token_id=50265,
        image_output_token_ids=list(range(50266, 50274)),
    )
    model = GillForConditionalGeneration(config).to(device)
    model.language_model.to(dtype)
    model.vision_model.to(dtype)
    return model


def build_batch(model: GillForConditionalGeneration, size: int, packing: float, device: str) -> dict[str, Any]:
    """Random captions with lengths like CC3M's (11 tokens in the mean, long tail), images, features and targets."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.round(rng.lognormal(mean=2.3, sigma=0.4, size=size)), 3, MAX_LENGTH - 9).astype(int)
    captions = [" ".join(map(str, rng.integers(4, 50265, length))) for length in lengths]
    config = model.config
    processor = SimpleNamespace(
        tokenizer=_NumberTokenizer(),
        image_token_id=config.image_token_id,
        image_output_token_ids=config.image_output_token_ids,
        num_visual_tokens=config.num_visual_tokens,
    )
    collator = CaptionedImageCollator(processor, MAX_LENGTH, packing)  # type: ignore[arg-type]
    batch = collator(
        [{"index": i, "name": "", "key": "", "caption": c, "image_features": [0.0]} for i, c in enumerate(captions)]
    )
    torch.manual_seed(1)
    batch["pixel_values"] = torch.randn(size, 3, 224, 224)
    batch = {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    batch["target_conditioning"] = {
        tensor.name: torch.randn(size, tensor.num_positions, tensor.dim, device=device)
        for tensor in config.conditioning_tensors
    }
    with torch.no_grad():
        batch["image_features"] = model.get_image_features(batch["pixel_values"]).pooler_output
    batch["mean_tokens"] = float(lengths.mean()) + 1
    return batch


def three_passes(model: GillForConditionalGeneration, batch: dict[str, Any], encodings: int) -> torch.Tensor:
    """The loss of a straightforward step; packed rows are padded as the authors pad them."""
    config = model.config
    ids, labels = batch["input_ids"], batch["labels"]
    reads = (ids == config.image_token_id).any(1)
    images = batch["pixel_values"].shape[0]
    packed = int(reads.sum()) < images
    k = config.num_visual_tokens

    def states_and_cross_entropy(rows: torch.Tensor, length: int, features: torch.Tensor | None) -> Any:
        padding = length - ids.shape[1]
        row_ids = functional.pad(ids[rows], (0, padding), value=1)[:, :length]
        row_labels = functional.pad(labels[rows], (0, padding), value=-100)[:, :length]
        mask = functional.pad(batch["attention_mask"][rows], (0, padding))[:, :length]
        embeds = model.embed_prompt(row_ids, image_features=features)
        states = model.run_language_model(embeds, mask, use_cache=False).last_hidden_state
        logits, targets = model.compute_logits(states)[:, :-1], row_labels[:, 1:]
        # In float64 where the check is.
        precision = torch.promote_types(logits.dtype, torch.float32)
        return row_ids, states, functional.cross_entropy(logits.flatten(0, 1).to(precision), targets.flatten())

    def encode(number: int) -> torch.Tensor | None:
        with torch.no_grad():
            return model.get_image_features(batch["pixel_values"]).pooler_output if number < encodings else None

    _, _, loss = states_and_cross_entropy(reads, 2 * (MAX_LENGTH + k) - 1 if packed else MAX_LENGTH + k, encode(0))
    for number in (1, 2):
        features = encode(number)
        length = 2 * MAX_LENGTH - 1 if packed else MAX_LENGTH
        row_ids, states, cross_entropy = states_and_cross_entropy(~reads, length, None)
        loss = loss + cross_entropy / 2
        row, start = (row_ids == config.image_output_token_ids[0]).nonzero(as_tuple=True)
        img_states = states[
            row[:, None], start[:, None] + torch.arange(config.num_image_output_tokens, device=ids.device)
        ]
        img_states = img_states.to(model.text_retrieval_head.weight)
        if number == 1:
            text = model.text_retrieval_head(img_states[:, 0])
            image = model.get_image_retrieval_embeddings(image_features=features)
            contrast = global_contrast(text, image, model.logit_scale)
            loss = loss + contrast.loss_sum / contrast.pairs
        else:
            assert model.mapper is not None
            mapped = model.mapper(img_states, model.img_embeddings.weight)
            loss = loss + conditioning_loss(mapped, batch["target_conditioning"], config.conditioning_tensors)
    return loss


def steps_of(model: GillForConditionalGeneration, batch: dict[str, Any]) -> dict[str, Callable]:
    """The four steps by name, each from nothing to a loss."""
    step = AdapterTrainingStep(model)
    rows = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", "target_conditioning")}
    return {
        **{name: partial(three_passes, model, batch, encodings) for name, encodings in ENCODINGS.items()},
        STEPS[2]: lambda: step(**rows, pixel_values=batch["pixel_values"])["loss"],
        STEPS[3]: lambda: step(**rows, image_features=batch["image_features"])["loss"],
    }


def gradients(model: GillForConditionalGeneration) -> dict[str, torch.Tensor]:
    """Gradient of every trained tensor, those without one left out."""
    return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}


def largest_gradient_difference(args: argparse.Namespace) -> dict[str, float]:
    """Largest difference of any tensor's gradient from that of three passes, relative to its largest value."""
    model = build_model("cpu", torch.float64).double()
    batch = build_batch(model, args.check_batch_size, args.packing, "cpu")
    batch = {n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in batch.items()}
    found = {}
    for name, step in steps_of(model, batch).items():
        model.zero_grad(set_to_none=True)
        step().backward()
        found[name] = gradients(model)
    plain = found[STEPS[0]]
    assert all(some.keys() == plain.keys() for some in found.values())
    return {
        name: max(float((some[w] - g).abs().max() / g.abs().max()) for w, g in plain.items())
        for name, some in found.items()
    }


def run_step(model: GillForConditionalGeneration, step: Callable, device: str, dtype: torch.dtype) -> float:
    """Seconds of one forward and backward: of CPU time on a CPU, else of wall time."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    model.zero_grad(set_to_none=True)
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        loss = step()
    loss.backward()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def peak_bytes(args: argparse.Namespace, name: str) -> int:
    """Peak memory that one step adds, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--peak-of", name]
    for option in ("batch_size", "packing", "device", "dtype", "threads"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    args = _parser().parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    model = build_model(args.device, dtype)
    batch = build_batch(model, args.batch_size, args.packing, args.device)
    steps = steps_of(model, batch)
    if args.peak_of:
        if args.device == "cpu":
            before = _resident_bytes("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak counts from here
            run_step(model, steps[args.peak_of], args.device, dtype)
            print(_resident_bytes("VmHWM") - before)
        else:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run_step(model, steps[args.peak_of], args.device, dtype)
            print(torch.cuda.max_memory_allocated() - before)
        return

    for step in steps.values():  # warms up
        run_step(model, step, args.device, dtype)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(args.repeats):
        for name, step in steps.items():
            times[name].append(run_step(model, step, args.device, dtype))
    result: dict[str, Any] = {
        "batch_size": args.batch_size,
        "mean_tokens": round(batch["mean_tokens"], 2),
        "packing": args.packing,
        "device": args.device,
        "dtype": args.dtype,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "steps": {},
    }
    differences = largest_gradient_difference(args)
    bases = {name: statistics.median(times[name]) for name in ENCODINGS}
    for name in steps:
        seconds = statistics.median(times[name])
        result["steps"][name] = {
            "seconds": round(seconds, 4),
            "examples_per_second": round(args.batch_size / seconds, 2),
            **{f"times {plain}": round(base / seconds, 2) for plain, base in bases.items()},
            "largest_relative_gradient_difference": differences[name],
            "peak_mebibytes": round(peak_bytes(args, name) / 2**20, 1),
        }
    print(json.dumps(result, indent=2))


def _resident_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class _NumberTokenizer:
    """Captions of the benchmark are ids already."""

    bos_token_id, pad_token_id = 2, 1

    def __call__(self, text: str, add_special_tokens: bool = True) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[self.bos_token_id, *map(int, text.split())])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--check-batch-size", type=int, default=4, help="examples that gradients are compared on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--packing", type=float, default=0.0, help="0 or 1: whether examples share rows in pairs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", help="of the frozen models and of autocast")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 leaves it to torch")
    parser.add_argument("--peak-of", default="", choices=("", *STEPS), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
