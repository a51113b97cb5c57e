"""Tell a story in captions and images, and go on from the images that were answered.

Run from the root of the repository: PYTHONPATH=. .venv/bin/python examples/chat.py [OUTPUT_DIR]
"""

import sys
from pathlib import Path

import torch

from gill import GillPipeline

output_dir = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/chat")
output_dir.mkdir(parents=True, exist_ok=True)
pipe = GillPipeline.from_pretrained("picturebook/checkpoint")
pipe.set_progress_bar_config(disable=True)

history = []
for number, caption in enumerate(("a red house on the left at night .", "then it turns blue .")):
    history.append(caption)
    prompt = [*history, "picture :"]
    out = pipe([prompt], decision="generate", generator=torch.Generator().manual_seed(number))
    image = out.image_pieces[0][0]
    image.image.save(output_dir / f"{number}.png")
    print(f"{caption} -> {image.source}, score {image.score:.2f}, {output_dir / f'{number}.png'}")
    # The next prompt holds the image that was drawn.
    history.append(image.image)
