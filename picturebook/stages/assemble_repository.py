"""The GILL repository: frozen models, adapters and the retrieval set in one folder, weights in half precision."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_gill.atomic_write_gill import replace_file, replace_folder
from pipeline_gill import GillPipeline, RetrievalSet
from pipeline_gill.repository_writer_gill import RETRIEVAL_SET_FOLDER
from pipeline_gill.retrieval_storage_gill import INDEX_FILE

from ..models.gill_answers import answer_prompts, load_pipeline
from ..models.image_generator import GUIDANCE_SCALE, INFERENCE_STEPS, plain_captions
from ..models.language_model import parse_full_caption
from ..world.drawing import from_images
from ..world.pairs import draw_all
from ..world.scene import Scene, retrievable_scenes
from ..world.splits import TEST, VALIDATION, scene_in, stream
from .run_folder import RunFolder
from .settings import Settings
from .train_adapters import STAGE as ADAPTERS

STAGE = "gill"
# What people type, in the form of the stories: it travels with the processor.
CHAT_TEMPLATE = Path(__file__).parents[1] / "models" / "chat_template.jinja"
# Messages that the chat page offers to begin with.
CHAT_EXAMPLES = CHAT_TEMPLATE.with_name("chat_examples.json")


def assemble_repository(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Write frozen models, adapters and the retrieval set to `DIR/gill`, and measure retrieval."""
    scenes = retrievable_scenes(settings.fast)
    pipe = load_pipeline(run.folder(ADAPTERS))
    pipe.processor.chat_template = CHAT_TEMPLATE.read_text(encoding="utf-8")
    pipe.register_to_config(num_inference_steps=INFERENCE_STEPS, guidance_scale=GUIDANCE_SCALE)
    # The rounded weights embed the images, as they will embed the queries.
    for weight in pipe.model.parameters():
        weight.data = weight.data.half().float()
    pipe.retrieval_set = build_retrieval_set(pipe, scenes, seed)
    with replace_folder(run.folder(STAGE)) as folder:
        pipe.save_pretrained(folder, self_contained=True)
        shutil.copy(CHAT_EXAMPLES, folder)
        halve_weights(folder)
        # Rebuilt from the embeddings when it is loaded.
        (folder / RETRIEVAL_SET_FOLDER / INDEX_FILE).unlink(missing_ok=True)

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
    files = [{"bytes": small_file(image), "path": None} for image in images]
    entries = list(zip(files, plain_captions(scenes), strict=True))
    return RetrievalSet.build(pipe.model, pipe.processor, entries, source="the picture book", progress=False)


def small_file(image: np.ndarray) -> bytes:
    """An image as a lossless WebP file, which for these images is smaller than PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=True, method=4)
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
    answers = answer_prompts(pipe, plain_captions(expected), decision="retrieve", force_image=True)
    retrieved = [parse_full_caption(images[0].caption or "") for _, images in answers]
    shown = from_images([images[0].image for _, images in answers])
    run.write_pairs_sheet(STAGE, draw_all(expected, generator), shown)
    pairs = list(zip(retrieved, expected, strict=True))
    same_background = [scene is not None and scene.background == right.background for scene, right in pairs]
    return {
        "right_retrieved": float(np.mean([scene == right for scene, right in pairs])),
        "right_background_retrieved": float(np.mean(same_background)),
    }
