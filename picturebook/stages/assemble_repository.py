"""The GILL repository: frozen models, adapters and the retrieval set in one folder, weights in half precision."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_gill.atomic_write_gill import replace_file, replace_folder
from pipeline_gill import GillPipeline, RetrievalSet
from pipeline_gill.retrieval_storage_gill import INDEX_FILE

from ..models.gill_answers import load_pipeline
from ..models.image_generator import GUIDANCE_SCALE, INFERENCE_STEPS
from ..models.language_model import parse_full_caption
from ..world.caption_grammar import describe
from ..world.drawing import from_images
from ..world.pairs import draw_all
from ..world.partial_scene import fully_known
from ..world.scene import Scene
from ..world.scene_subsets import retrievable_scenes
from ..world.splits import TEST, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import Settings
from .train_adapters import STAGE as ADAPTERS

STAGE = "gill"
_RETRIEVAL_SET = "retrieval_set"
# What people type, in the form of the stories: it travels with the processor.
CHAT_TEMPLATE = Path(__file__).parents[1] / "models" / "chat_template.jinja"


def write_repository(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Write frozen models, adapters and the retrieval set to `DIR/gill`, and measure retrieval."""
    scenes = retrievable_scenes(settings.fast)
    with replace_folder(run.folder(STAGE)) as folder:
        pipe = load_pipeline(run.folder(ADAPTERS)).to("cpu")
        pipe.processor.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
        pipe.register_to_config(num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE)
        for part in (pipe.vae, pipe.unet):
            # Without this, diffusers writes the folder that they were loaded from.
            part.register_to_config(_name_or_path="")
        pipe.save_pretrained(folder, self_contained=True)
        halve_weights(folder)
        # The rounded weights embed the images, as they will embed the queries.
        pipe = load_pipeline(folder)
        build_retrieval_set(pipe, scenes, seed).save(folder / _RETRIEVAL_SET)
        # Rebuilt from the embeddings when it is loaded.
        (folder / _RETRIEVAL_SET / INDEX_FILE).unlink(missing_ok=True)

    pipe = load_pipeline(run.folder(STAGE))
    size = sum(path.stat().st_size for path in run.folder(STAGE).rglob("*") if path.is_file())
    run.write_metrics(STAGE, {"megabytes": size / 1e6, **measure_retrieval(pipe, scenes, run, settings, seed)})


def halve_weights(folder: Path) -> None:
    """Store all float32 weights as float16. They are loaded as float32 again, as the configurations say."""
    for path in sorted(folder.rglob("*.safetensors")):
        weights = load_file(path)
        if any(weight.dtype == torch.float32 for weight in weights.values()):
            halved = {
                name: weight.half() if weight.dtype == torch.float32 else weight for name, weight in weights.items()
            }
            with replace_file(path) as new:
                save_file(halved, new, metadata={"format": "pt"})


def build_retrieval_set(pipe: GillPipeline, scenes: Sequence[Scene], seed: int) -> RetrievalSet:
    """The retrieval set: one image of each scene with its full caption."""
    generator = stream(seed, TEST, "library")
    images = draw_all(scenes, generator)
    entries = [
        ({"bytes": small_png(image), "path": None}, describe(fully_known(scene)))
        for image, scene in zip(images, scenes, strict=True)
    ]
    return RetrievalSet.build(pipe.model, pipe.processor, entries, source="the picture book", progress=False)


def small_png(image: np.ndarray) -> bytes:
    """An image as a PNG file, with a palette if it has at most 256 colours: half the size."""
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


def measure_retrieval(
    pipe: GillPipeline, scenes: Sequence[Scene], run: RunFolder, settings: Settings, seed: int
) -> dict[str, float]:
    """How often the first image retrieved for the caption of a retrievable scene shows this scene."""
    generator, retrievable = stream(seed, VALIDATION, STAGE), frozenset(scenes)
    expected: list[Scene] = []
    while len(expected) < settings.measured:
        scene = scene_in(VALIDATION, generator, float(settings.fast))
        if scene in retrievable:
            expected.append(scene)
    retrieved, images = [], []
    for start in range(0, len(expected), 50):
        captions = [describe(fully_known(scene)) for scene in expected[start : start + 50]]
        out = pipe(captions, decision="retrieve", force_image=True)
        retrieved += [parse_full_caption(pieces[0].caption or "") for pieces in out.image_pieces]
        images += list(from_images([pieces[0].image for pieces in out.image_pieces]))
    run.write_pairs_sheet(STAGE, draw_all(expected, generator), images)
    pairs = list(zip(retrieved, expected, strict=True))
    same_background = [scene is not None and scene.background == right.background for scene, right in pairs]
    return {
        "right_retrieved": float(np.mean([scene == right for scene, right in pairs])),
        "right_background_retrieved": float(np.mean(same_background)),
    }
