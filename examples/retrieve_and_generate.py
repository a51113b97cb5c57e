"""Compare what is retrieved with what is generated, and save all candidates as one grid.

Run from the root of the repository: PYTHONPATH=. .venv/bin/python examples/retrieve_and_generate.py [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import torch
from diffusers.utils import make_image_grid

from gill import GillPipeline

output_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/retrieve_and_generate")
output_dir.mkdir(parents=True, exist_ok=True)
pipe = GillPipeline.from_pretrained("picturebook/checkpoint")
pipe.set_progress_bar_config(disable=True)

out = pipe(
    "a red house on the left at night . picture :",
    decision="both",
    num_images_per_prompt=3,
    generator=torch.Generator().manual_seed(0),
)
for piece in out.image_pieces[0]:
    print(f"{piece.source}: the model prefers to {piece.decision}, with probabilities {piece.decision_probabilities}")
    for candidate in piece.candidates:
        print(f"  score {candidate.score:.2f}, caption {candidate.caption!r}")
# All candidates in one list, best first: three retrieved and three generated images.
make_image_grid(out.images, rows=2, cols=3).save(output_dir / "grid.png")
print(output_dir / "grid.png")
