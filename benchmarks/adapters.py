"""What GILL's adapters take on disk and in memory at OPT-6.7B's sizes: `python -m benchmarks.adapters`.

1. Size of a repository in bfloat16, against two bytes for each trained parameter.
2. Peak memory of loading it onto backbones that are there already, against the size of the adapters.

The language model has 6.7B's widths and vocabulary but no depth, which the adapters do not see.
"""

import argparse
import ctypes
import gc
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from modeling_gill import GillForConditionalGeneration
from pipeline_gill.hub_layout_gill import write_code, write_model_index

from .random_models import CLIP_L_14, OPT_6_7B, make_config, make_processor

# A thin language model as wide as OPT-6.7B where the adapters touch it.
THIN = {"word_embed_proj_dim": 4096, "hidden_size": 64, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
SHALLOW = {**CLIP_L_14, "num_hidden_layers": 1}


def write_repository(folder: Path) -> int:
    """Write a repository with random adapters in bfloat16; returns the number of trained parameters."""
    config = make_config(
        OPT_6_7B, CLIP_L_14, language_model_id="facebook/opt-6.7b", vision_model_id="openai/clip-vit-large-patch14"
    )
    model = GillForConditionalGeneration(config, defer_backbones=True).to(torch.bfloat16)
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    write_code(folder)
    write_model_index(folder, {})
    return sum(weight.numel() for weight in model.parameters())


def peak_of_loading(folder: Path) -> tuple[int, int]:
    """Bytes that the process grew by at its peak while loading, and bytes of the adapters."""
    config = make_config(THIN, SHALLOW)
    with torch.device("meta"):
        whole = GillForConditionalGeneration(config)
    language_model = whole.language_model.to(torch.bfloat16).to_empty(device="cpu")
    language_model.tie_weights()
    vision_model = whole.vision_model.to(torch.bfloat16).to_empty(device="cpu")
    for weight in (*language_model.parameters(), *vision_model.parameters()):
        weight.data.zero_()
    config.language_model_id = config.vision_model_id = "given"
    # A first load imports what every load needs.
    GillForConditionalGeneration(make_config(THIN, SHALLOW, mapper_hidden_size=4), defer_backbones=True)
    # Unused memory would hide the growth. Writing 5 resets the high-water mark (Linux).
    del whole
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _kilobytes("VmRSS")
    model = GillForConditionalGeneration.from_pretrained(
        folder, config=config, language_model=language_model, vision_model=vision_model
    )
    prefixes = ("language_model.", "vision_model.")
    adapters = [weight for name, weight in model.named_parameters() if not name.startswith(prefixes)]
    # Weights are mapped from the file until they are used: use them.
    assert all(torch.isfinite(weight.sum()) for weight in adapters)
    grown = _kilobytes("VmHWM") - before
    return grown * 1024, sum(weight.numel() * weight.element_size() for weight in adapters)


def _kilobytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adapters", description=__doc__)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        grown, own = peak_of_loading(args.load)
        print(f"2. loading {own / 1e6:.1f} MB of adapters: peak {grown / 1e6:.1f} MB, {grown / own:.3f} x their size")
        return
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_repository(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        print(
            f"1. repository {size / 1e6:.2f} MB for {parameters:,} trained parameters: "
            f"{size / (2 * parameters):.4f} x two bytes each"
        )
        # In a fresh process, whose high-water mark is low.
        subprocess.run([sys.executable, "-m", "benchmarks.adapters", "--load", folder], check=True)


if __name__ == "__main__":
    main()
