"""`python -m demo --out FOLDER`: answers a few prompts and writes the page."""

import argparse
import webbrowser
from pathlib import Path
from typing import Any

import torch

from .checkpoint import RANDOM_WEIGHTS, load_photographs, make_pipeline
from .page import render_page


def main() -> None:
    """Run the demonstration and say where the page is."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    photographs = load_photographs()
    pipe = make_pipeline(args.out, photographs)
    prompts: list[list[Any]] = [
        ["Q: What is this?\nA:", photographs["chelsea"], "Show me one in yellow."],
        ["a picture of a cat on a mat"],
        [photographs["astronaut"], "an astronaut rides a horse on mars"],
        ["Q: how should I publicise these at the market ?", photographs["coffee"], photographs["coins"], "A:"],
        ["show me a drawing of a house near the sea", photographs["rocket"], "in blue and yellow"],
    ]
    out = pipe(
        prompts,
        decision="both",
        min_text_tokens=6,
        image_token_scale=1e5,
        num_inference_steps=20,
        generator=[torch.Generator().manual_seed(number) for number in range(len(prompts))],
    )
    page = args.out / "index.html"
    lead = (
        "Each prompt was answered with text, and with a picture both retrieved and generated; the chosen one is first."
    )
    page.write_text(
        render_page("GILL answers", lead, RANDOM_WEIGHTS, list(zip(prompts, out.sequences, strict=True))),
        encoding="utf-8",
    )
    print(f"\n{RANDOM_WEIGHTS}\n\nThe page: {page.resolve().as_uri()}")
    if args.open:
        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
