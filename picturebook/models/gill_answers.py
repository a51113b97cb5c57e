"""What a GILL pipeline answers to many prompts, in batches, and whether its images are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline_gill import GillImage, GillPipeline

from ..world.backgrounds import IMAGE_SIZE
from ..world.drawing import from_images, to_images
from ..world.prompts import ImagePrompt
from ..world.reader import correctness, read
from ..world.scene import Scene
from . import batches
from .image_generator import GUIDANCE_SCALE, INFERENCE_STEPS, noise_seeds
from .language_model import description_in

SOURCES = ("retrieved", "generated")


def load_pipeline(folder: Path) -> GillPipeline:
    """The pipeline in a folder, its progress bars off; on a GPU where there is one."""
    pipe = GillPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def answer_prompts(
    pipe: GillPipeline, prompts: Sequence[Any], seed: int = 0, **options: Any
) -> list[tuple[str, list[GillImage]]]:
    """GILL's text and images for each prompt, generated from noise of its own.

    Args:
        options: Those of the pipeline's call.
    """
    answers: list[tuple[str, list[GillImage]]] = []
    for batch in batches(list(zip(prompts, noise_seeds(seed, len(prompts)), strict=True))):
        generators = [generator for _, generator in batch]
        out = pipe([prompt for prompt, _ in batch], generator=generators, **options)
        answers += [(text.strip(), images) for text, images in zip(out.texts, out.image_pieces, strict=True)]
    return answers


def generate_images(
    pipe: GillPipeline,
    prompts: Sequence[Any],
    seed: int = 0,
    force_image: bool = False,
    steps: int = INFERENCE_STEPS,
) -> tuple[np.ndarray, list[str]]:
    """GILL's generated image for each prompt, uint8 `(num_prompts, 32, 32, 3)`, and the text before it.

    Args:
        force_image (`bool`): Whether the image comes right after the prompt. Otherwise it is black where the model
            does not ask for one.
        steps (`int`): Of the image generator.
    """
    options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE_SCALE, "force_image": force_image}
    answers = answer_prompts(pipe, prompts, seed, decision="generate", **options)
    return _pixels_of([images[0] if images else None for _, images in answers]), [text for text, _ in answers]


def write_texts(pipe: GillPipeline, prompts: Sequence[Any], max_new_tokens: int) -> list[str]:
    """What the language model writes after each prompt, up to an image; prompts of one length at a time."""
    texts = [""] * len(prompts)
    lengths = [pipe.processor(prompt)["input_ids"].shape[1] for prompt in prompts]
    for numbers in batches(sorted(range(len(prompts)), key=lambda number: lengths[number])):
        batch = pipe.processor([prompts[number] for number in numbers]).to(pipe.device)
        written = pipe.model.generate(**batch, max_new_tokens=max_new_tokens)
        for number, ids in zip(numbers, written[:, batch["input_ids"].shape[1] :].tolist(), strict=True):
            pieces = pipe.processor.split_answer(ids)
            texts[number] = pieces[0].strip() if pieces and isinstance(pieces[0], str) else ""
    return texts


def write_captions(pipe: GillPipeline, images: np.ndarray) -> list[Scene | None]:
    """The scene that GILL's caption of each image describes; `None` if it leaves anything out or is no caption."""
    texts = write_texts(pipe, [[image] for image in to_images(images)], max_new_tokens=24)
    return [description_in(text)[1] for text in texts]


def share_with_image(pipe: GillPipeline, prompts: Sequence[str]) -> float:
    """How often the model asks for an image of its own accord right after a full caption."""
    asks = []
    for of_batch in batches(prompts):
        batch = pipe.processor(of_batch).to(pipe.device)
        with torch.no_grad():
            best = pipe.model(**batch, logits_to_keep=1).logits[:, -1].argmax(-1)
        asks += (best == pipe.model.config.image_output_token_ids[0]).tolist()
    return float(np.mean(asks))


@dataclass(frozen=True)
class AnsweredBothWays:
    """A prompt with GILL's two images.

    Attributes:
        asked: The prompt.
        text: The text before the image.
        retrieved, generated: Whether each image is right.
        score: Retrieval score of the retrieved image.
        generated_score: That of the generated image.
        probability: The model's probability that the retrieved image is the better one; 0 without a decision head.
        decided: The model's decision, `generate` or `retrieve`; `None` without a decision head.
        images: Both images by source, uint8 `(32, 32, 3)`; empty where the model did not ask for one.
    """

    asked: ImagePrompt
    text: str
    retrieved: bool
    generated: bool
    score: float
    decided: str | None
    images: dict[str, np.ndarray] = field(default_factory=dict)
    generated_score: float = 0.0
    probability: float = 0.0

    @property
    def retrieves(self) -> bool:
        """Whether the model decides to retrieve."""
        return self.decided == "retrieve"

    @property
    def label(self) -> str:
        """`"retrieve"`, `"generate"`, or `"tie"` where both images are right or neither is."""
        if self.retrieved == self.generated:
            return "tie"
        return "retrieve" if self.retrieved else "generate"


def answer_both_ways(
    pipe: GillPipeline, asked: Sequence[ImagePrompt], seed: int = 0, **options: Any
) -> list[AnsweredBothWays]:
    """Retrieve and generate for each prompt, and let the reader judge.

    Args:
        options: Those of the pipeline's call.
    """
    answers = answer_prompts(pipe, [prompt.prompt for prompt in asked], seed, decision="both", **options)
    both = [{image.source: image for image in images} for _, images in answers]
    verdicts = {
        source: judge([images.get(source) for images in both], [prompt.scene for prompt in asked]) for source in SOURCES
    }
    answered = []
    for number, (prompt, (text, _), images) in enumerate(zip(asked, answers, both, strict=True)):
        scores = {
            source: images[source].score or 0.0 if source in images else 0.0 for source in ("retrieved", "generated")
        }
        probabilities = next(iter(images.values())).decision_probabilities if images else None
        answered.append(
            AnsweredBothWays(
                prompt,
                text,
                bool(verdicts["retrieved"][number]),
                bool(verdicts["generated"][number]),
                scores["retrieved"],
                max(probabilities, key=lambda name: probabilities[name]) if probabilities else None,
                {source: from_images([image.image])[0] for source, image in images.items()},
                scores["generated"],
                probabilities["retrieve"] if probabilities else 0.0,
            )
        )
    return answered


def judge(images: Sequence[GillImage | None], scenes: Sequence[Scene]) -> np.ndarray:
    """Whether each image shows all of its scene; a missing one does not."""
    return correctness(read(_pixels_of(images)), scenes)["scene"]


def _pixels_of(images: Sequence[GillImage | None]) -> np.ndarray:
    """uint8 `(num_images, 32, 32, 3)`; a missing image is black, which is never right."""
    black = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    return from_images([black if image is None else image.image for image in images])
