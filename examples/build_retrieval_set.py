"""Build a set of images that the model can retrieve from, search it and answer with it.

Run from the root of the repository: PYTHONPATH=. .venv/bin/python examples/build_retrieval_set.py [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import torch

from gill import GillPipeline, RetrievalSet

output_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/build_retrieval_set")
output_dir.mkdir(parents=True, exist_ok=True)
pipe = GillPipeline.from_pretrained("picturebook/checkpoint")
pipe.set_progress_bar_config(disable=True)

captions = ["a red house on the left at night .", "a blue boat at sea .", "a green cat in the snow ."]
images = pipe(
    [f"{caption} picture :" for caption in captions],
    decision="generate",
    generator=[torch.Generator().manual_seed(number) for number in range(len(captions))],
).images
pairs = list(zip(images, captions, strict=True))
RetrievalSet.build(pipe.model, pipe.processor, pairs, source="generated", progress=False).save(
    output_dir / "set", overwrite=True
)

pipe.load_retrieval_set(output_dir / "set")
found = pipe("a boat at sea .", decision="retrieve", force_image=True).image_pieces[0][0]
print(f"{len(images)} images; nearest to 'a boat at sea .': {found.caption!r}, score {found.score:.2f}")
found.image.save(output_dir / "found.png")
