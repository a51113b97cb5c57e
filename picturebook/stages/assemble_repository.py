"""The repository of the world's GILL: everything in one folder, weights in half precision, images to retrieve."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline_gill import GillPipeline, RetrievalSet
from pipeline_gill.retrieval_storage_gill import INDEX_FILE

from ..models.image_tensors import from_images
from ..world.caption_grammar import describe
from ..world.pairs import draw_all
from ..world.partial_scene import all_of
from ..world.scene import Scene
from ..world.scene_subsets import library_scenes
from ..world.splits import TEST, VALIDATION, scene_in, stream
from .run_folder import Place
from .settings import Settings
from .train_adapters import STAGE as ADAPTERS
from .train_adapters import load_pipeline
from .train_generator import GUIDANCE_SCALE, INFERENCE_STEPS
from .train_language_model import scene_said

STAGE = "gill"
_RETRIEVAL_SET = "retrieval_set"


def write_repository(place: Place, settings: Settings, seed: int = 0) -> None:
    """Put frozen models, adapters and the library's images into `DIR/gill`, and measure what is found."""
    library = library_scenes(settings.familiar)

    def write(folder: Path) -> None:
        pipe = load_pipeline(place.folder(ADAPTERS)).to("cpu")
        pipe.register_to_config(num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE)
        for part in (pipe.vae, pipe.unet):
            # diffusers would write down in which folder of this machine they were trained.
            part.register_to_config(_name_or_path="")
        pipe.save_pretrained(folder, self_contained=True)
        halve_weights(folder)
        # Embedded by the weights that will search it, rounding included.
        pipe = load_pipeline(folder)
        make_library(pipe, library, seed).save(folder / _RETRIEVAL_SET)
        # Made again from the embeddings in a moment.
        (folder / _RETRIEVAL_SET / INDEX_FILE).unlink(missing_ok=True)

    place.write_folder(STAGE, write)
    pipe = load_pipeline(place.folder(STAGE))
    size = sum(path.stat().st_size for path in place.folder(STAGE).rglob("*") if path.is_file())
    place.write_figures(STAGE, {"megabytes": size / 1e6, **measure_library(pipe, library, place, settings, seed)})


def halve_weights(folder: Path) -> None:
    """Rewrite every file of float32 weights in float16; they are loaded as float32 again, as configurations say."""
    for path in sorted(folder.rglob("*.safetensors")):
        weights = load_file(path)
        if any(weight.dtype == torch.float32 for weight in weights.values()):
            halved = {
                name: weight.half() if weight.dtype == torch.float32 else weight for name, weight in weights.items()
            }
            partial = path.with_suffix(".partial")
            save_file(halved, partial, metadata={"format": "pt"})
            shutil.copymode(path, partial)
            partial.replace(path)


def make_library(pipe: GillPipeline, scenes: Sequence[Scene], seed: int) -> RetrievalSet:
    """The retrieval set: an image of each scene, captioned by its description."""
    generator = stream(seed, TEST, "library")
    images = draw_all(scenes, generator)
    entries = [
        ({"bytes": small_png(image), "path": None}, describe(all_of(scene)))
        for image, scene in zip(images, scenes, strict=True)
    ]
    return RetrievalSet.build(pipe.model, pipe.processor, entries, source="the picture book", progress=False)


def small_png(image: np.ndarray) -> bytes:
    """An image of at most 256 colours as a PNG file with a palette, half as large."""
    colours = np.unique(image.reshape(-1, 3), axis=0)
    file = io.BytesIO()
    if len(colours) > 256:
        Image.fromarray(image).save(file, "PNG", optimize=True)
        return file.getvalue()
    codes = (image.astype(np.int64) * (65_536, 256, 1)).sum(-1)
    palette_image = Image.fromarray(np.searchsorted((colours * (65_536, 256, 1)).sum(-1), codes).astype(np.uint8), "P")
    palette_image.putpalette(colours.astype(np.uint8).tobytes())
    palette_image.save(file, "PNG", optimize=True)
    return file.getvalue()


def measure_library(
    pipe: GillPipeline, library: Sequence[Scene], place: Place, settings: Settings, seed: int
) -> dict[str, float]:
    """How often the first image found for a caption of one of the library's scenes shows it; two things, or one."""
    generator, number = stream(seed, VALIDATION, STAGE), settings.measured
    there = frozenset(library)
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = scene_in(VALIDATION, generator, float(settings.familiar))
        if scene in there:
            scenes.append(scene)
    found, images = [], []
    for begin in range(0, number, 50):
        some = [describe(all_of(scene)) for scene in scenes[begin : begin + 50]]
        out = pipe(some, decision="retrieve", force_image=True)
        found += [scene_said(answer[0].caption or "") for answer in out.image_pieces]
        images += list(from_images([answer[0].image for answer in out.image_pieces]))
    place.write_pairs_sheet(STAGE, draw_all(scenes, generator), images)
    same_background = [
        one is not None and one.background == scene.background for one, scene in zip(found, scenes, strict=True)
    ]
    return {
        "right_retrieved": float(np.mean([one == scene for one, scene in zip(found, scenes, strict=True)])),
        "right_background_retrieved": float(np.mean(same_background)),
    }
