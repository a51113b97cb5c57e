"""The checkpoint that the demonstration runs on.

No trained weights are in this repository yet. Until they are, the seeded world of the golden tests stands in: backbones
and adapters in the authors' own file layout with random weights, converted by the command that converts the real ones.
"""

import contextlib
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from conversion import gill as convert_gill
from pipeline_gill import GillPipeline, RetrievalSet
from tests.golden.make_checkpoint import write as write_seeded_world

RANDOM_WEIGHTS = (
    "The weights behind this page are random: the pipeline is real, its answers are noise. "
    "Convert the authors' checkpoint, or train one, for answers that mean something."
)

PHOTOGRAPHS = {
    "astronaut": "a portrait of an astronaut",
    "chelsea": "a cat looking at the camera",
    "coffee": "a cup of coffee on a table",
    "rocket": "a rocket on its launch pad",
    "camera": "a man with a camera on a tripod",
    "moon": "the surface of the moon",
    "retina": "the inside of an eye",
    "brick": "a wall of bricks",
    "grass": "grass from above",
    "coins": "old coins in rows",
}


def load_photographs() -> dict[str, Image.Image]:
    """Photographs that scikit-image carries, by name; nothing is downloaded."""
    from skimage import data

    return {name: Image.fromarray(np.asarray(getattr(data, name)())) for name in PHOTOGRAPHS}


def make_pipeline(folder: Path, photographs: dict[str, Image.Image]) -> GillPipeline:
    """Make the seeded world in `folder`, convert it, and let it retrieve from the photographs."""
    datasets.disable_progress_bars()
    world, repository = folder / "world", folder / "gill"
    if not repository.exists():
        write_seeded_world(str(world))
        arguments = [
            str(world / "gill_opt"),
            str(repository),
            *("--language-model", str(world / "facebook/opt-golden")),
            *("--vision-model", str(world / "clip-golden")),
            *("--image-generator", str(world / "sd-golden")),
            *("--picture-folder", str(world)),
            *("--dtype", "float32"),
        ]
        # Its report of every tensor is for those who convert.
        with contextlib.redirect_stdout(None):
            code = convert_gill.main(arguments)
        if code:
            raise SystemExit(code)
    pipe = GillPipeline.from_pretrained(repository)
    captioned = [(picture, PHOTOGRAPHS[name]) for name, picture in photographs.items()]
    pipe.retrieval_set = RetrievalSet.build(
        pipe.model, pipe.processor, captioned, source="scikit-image", progress=False
    )
    return pipe
