"""Options that the tasks share, and how they end."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .generation_task import Measure
from .results import Results
from .systems import ClipBaseline, Drawing, GeneratorBaseline, GillSystem

_SYSTEMS: dict[str | None, Any] = {None: GillSystem, "generator": GeneratorBaseline, "clip": ClipBaseline}
_NEEDS = {
    "draw": ("draws no images", "GILL or `--baseline generator`"),
    "embed_prompts": ("cannot retrieve", "GILL or `--baseline clip`"),
    "answer_scores": ("writes no text", "GILL"),
}


def new_parser(module: str, description: str, needs_model: bool = True) -> argparse.ArgumentParser:
    """A parser with the options of every task; `needs_model` is off where a baseline is no model."""
    parser = argparse.ArgumentParser(prog=f"python -m evaluation_gill.{module}", description=description)
    parser.add_argument("--model", required=needs_model, help="GILL's repository or folder, or that of the baseline")
    parser.add_argument("--revision", help="of the repository")
    parser.add_argument(
        "--baseline",
        choices=["generator", "clip"],
        help="--model is a text-to-image pipeline of diffusers, or a CLIP that retrieves",
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=_positive, default=8, help="examples at once; 8")
    parser.add_argument("--limit", type=_positive, help="only the first so many examples")
    parser.add_argument("--out", type=Path, required=True, help="folder for results and images")
    incomplete = "measure without examples that lack an image or a text; the results list them"
    parser.add_argument("--leave-out-incomplete", action="store_true", help=incomplete)
    return parser


def add_drawing(parser: argparse.ArgumentParser, metrics: Sequence[str]) -> None:
    """Options of tasks that draw; `metrics` are measured unless others are named."""
    parser.add_argument("--steps", type=_positive, default=50, help="denoising steps; 50")
    parser.add_argument("--guidance", type=float, default=7.5, help="7.5")
    parser.add_argument("--size", type=_positive, help="pixels of the images made, both ways; the generator's own")
    parser.add_argument("--seed", type=int, default=42, help="42")
    parser.add_argument(
        "--seeding",
        choices=["run", "example"],
        default="run",
        help="one generator of random numbers for the whole run, as the paper has it, or a fresh one for each example",
    )
    known = ["clip_image_similarity", "clip_text_similarity", "lpips", "fid"]
    parser.add_argument("--metrics", nargs="+", choices=known, default=list(metrics), help=" ".join(metrics))
    parser.add_argument("--clip", default="openai/clip-vit-large-patch14", help="CLIP of the CLIP similarities")
    parser.add_argument("--clip-revision", help="of its repository")
    parser.add_argument("--lpips-alexnet", help="the file alexnet-owt-7be5be79.pth, for lpips")
    parser.add_argument("--inception", help="the file inception-2015-12-05.pt, for fid")
    parser.add_argument("--fid-resamples", type=int, default=100, help="bootstrap samples for fid's interval; 100")


def drawing_of(options: argparse.Namespace) -> Drawing:
    """How to draw."""
    return Drawing(options.steps, options.guidance, options.size)


def measures_of(options: argparse.Namespace) -> list[Measure]:
    """What to measure."""
    clip = {"model": options.clip, "revision": options.clip_revision}
    shown_clip = {"model": _shown(options.clip), "revision": options.clip_revision}
    lpips = {"weights": options.lpips_alexnet, "size": 256}
    fid = {"weights": options.inception, "resamples": options.fid_resamples}
    every = {
        "clip_image_similarity": (clip, shown_clip),
        "clip_text_similarity": (clip, shown_clip),
        "lpips": (lpips, {"network": "alexnet", "size": 256, "weights": _shown(options.lpips_alexnet)}),
        "fid": (fid, {"network": _shown(options.inception), "resamples": options.fid_resamples}),
    }
    return [
        Measure(name, {**every[name][0], "device": options.device}, every[name][1])
        for name in dict.fromkeys(options.metrics)
    ]


def load_system(options: argparse.Namespace, method: str) -> Any:
    """The system to evaluate.

    Raises:
        ValueError: one that cannot do what the task asks of it. OSError: one that is not there.
    """
    system = _SYSTEMS[options.baseline]
    if not hasattr(system, method):
        lacks, instead = _NEEDS[method]
        raise ValueError(f"`--baseline {options.baseline}` {lacks}; this task is for {instead}.")
    return system.load(options.model, options.revision, getattr(torch, options.dtype), options.device)


def data_protocol(name: str, annotations: Path) -> dict[str, Any]:
    """Which data, such that nobody can take another file for it."""
    digest = hashlib.sha256(annotations.read_bytes()).hexdigest()
    return {"data": name, "annotations": annotations.name, "annotations_sha256": digest}


def run_command(command: Callable[[Sequence[str] | None], Results], arguments: Sequence[str] | None = None) -> int:
    """Run a task and print its figures; what a user did wrong ends in one line on stderr and the exit code 2."""
    try:
        results = command(arguments)
    except (OSError, ValueError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{results.task}, {results.system['kind']} {results.system['name']}")
    for figure in results.figures:
        interval = "" if figure.interval is None else f"  [{figure.interval[0]:.4f}, {figure.interval[1]:.4f}]"
        print(f"  {figure.name:<24} {figure.value:.4f}{interval}  ({figure.examples} examples)")
    if results.left_out:
        print(f"  {len(results.left_out)} examples were left out; the results list them", file=sys.stderr)
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _shown(name: str | None) -> str | None:
    return None if name is None else Path(name).name if Path(name).exists() else name


__all__ = ["add_drawing", "data_protocol", "drawing_of", "load_system", "measures_of", "new_parser", "run_command"]
