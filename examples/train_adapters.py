"""Train adapters between three small models, about a minute on two cores, and answer a prompt with them.

Run from the root of the repository: PYTHONPATH=. .venv/bin/python examples/train_adapters.py [OUTPUT_DIR]
"""

import sys
from pathlib import Path

from gill import GillPipeline, PrecomputeArguments, precompute, train
from training_gill.small_data import write_images, write_models

output_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/train_adapters")

# Images with captions, and a language model, an image encoder and an image generator to train between. Your own are
# Hub names or folders, and the data is a .tsv, a folder or a dataset of the Hub.
write_images(output_dir, train=256, validation=32)
write_models(output_dir, steps=100)
models = {role: str(output_dir / "models" / role) for role in ("language_model", "vision_model", "image_generator")}
captions = [str(output_dir / name) for name in ("train.tsv", "validation.tsv")]

# The generator's text encoder reads each caption once: the mapper learns to give what it gave.
cache = str(output_dir / "cache")
precompute(PrecomputeArguments(dataset=captions, out=cache, image_generator=models["image_generator"]))

# "small" is one of the recipes in training_gill/recipes; every entry can be replaced.
metrics = train(
    "small",
    **models,
    train_data=captions[0],
    validation_data=captions[1],
    cache=cache,
    output_dir=str(output_dir / "gill"),
    max_steps=60,
    eval_strategy="no",
    panel_steps=60,
)
print({name: round(value, 3) for name, value in metrics.items() if name.endswith(("loss", "_1"))})

# What was written is a repository as any other.
pipe = GillPipeline.from_pretrained(output_dir / "gill")
image = pipe("a red circle .", decision="generate", force_image=True, num_inference_steps=5).images[0]
image.save(output_dir / "generated.png")
print(output_dir / "generated.png")
