"""What a GILL pipeline answers to many prompts, in batches, and whether its images are right."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline_gill import GillImage, GillPipeline

from ..world.drawing import from_images, to_images
from ..world.prompts import ImagePrompt
from ..world.reader import correctness, read
from ..world.scene import Scene
from .image_generator import GUIDANCE_SCALE, INFERENCE_STEPS, noise_seeds
from .language_model import parse_full_caption

SOURCES = ("retrieved", "generated")


def load_pipeline(folder: Path) -> GillPipeline:
    """The pipeline in a folder, its progress bars off; on a GPU where there is one."""
    pipe = GillPipeline.from_pretrained(str(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def generate_images(pipe: GillPipeline, prompts: list, seed: int = 0, batch_size: int = 50) -> np.ndarray:
    """GILL's image right after each prompt, uint8 `(prompts, 32, 32, 3)`; each with a seed of its own."""
    drawn = []
    for begin in range(0, len(prompts), batch_size):
        some = prompts[begin : begin + batch_size]
        seeds = noise_seeds(seed, begin, len(some))
        out = pipe(
            some,
            decision="generate",
            force_image=True,
            generator=seeds,
            num_inference_steps=INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
        )
        drawn.append(from_images([answer[0].image for answer in out.image_pieces]))
    return np.concatenate(drawn)


def write_captions(pipe: GillPipeline, images: np.ndarray, batch_size: int = 50) -> list[Scene | None]:
    """The scene that GILL says each image shows; `None` where it says less, or no caption."""
    said = []
    for begin in range(0, len(images), batch_size):
        prompts = [[one] for one in to_images(images[begin : begin + batch_size])]
        batch = pipe.processor(prompts).to(pipe.device)
        written = pipe.model.generate(**batch, max_new_tokens=24)
        for ids in written[:, batch["input_ids"].shape[1] :].tolist():
            text = pipe.processor.split_answer(ids)
            said.append(
                parse_full_caption(text[0].partition(".")[0].strip() if text and isinstance(text[0], str) else "")
            )
    return said


def share_with_image(pipe: GillPipeline, prompts: list[str], batch_size: int = 50) -> float:
    """How often the model asks for an image of its own accord right after a full caption."""
    asked = []
    for begin in range(0, len(prompts), batch_size):
        batch = pipe.processor(prompts[begin : begin + batch_size]).to(pipe.device)
        with torch.no_grad():
            best = pipe.model(**batch, logits_to_keep=1).logits[:, -1].argmax(-1)
        asked += (best == pipe.model.config.image_output_token_ids[0]).tolist()
    return float(np.mean(asked))


@dataclass(frozen=True)
class AnsweredBothWays:
    """A prompt with GILL's two images.

    Attributes:
        asked: The prompt.
        text: What the model wrote before its image.
        retrieved, generated: Whether each image is right.
        score: Retrieval score of the image found.
        decided: What the model decides, `generate` or `retrieve`; `None` without a decision head.
        images: Both, uint8 `(32, 32, 3)`; empty where the model asked for none.
    """

    asked: ImagePrompt
    text: str
    retrieved: bool
    generated: bool
    score: float
    decided: str | None
    images: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """`"retrieve"`, `"generate"`, or `"tie"` where both images are right or neither is."""
        if self.retrieved == self.generated:
            return "tie"
        return "retrieve" if self.retrieved else "generate"


def answer_both_ways(
    pipe: GillPipeline, asked: Sequence[ImagePrompt], seed: int = 0, batch_size: int = 50
) -> list[AnsweredBothWays]:
    """Retrieve and generate for each prompt, and let the reader judge."""
    answered = []
    for begin in range(0, len(asked), batch_size):
        some = asked[begin : begin + batch_size]
        seeds = noise_seeds(seed, begin, len(some))
        out = pipe([one.prompt for one in some], decision="both", generator=seeds)
        both = [{image.source: image for image in images} for images in out.image_pieces]
        verdicts = {source: judge([two.get(source) for two in both], some) for source in SOURCES}
        for number, (one, two, text) in enumerate(zip(some, both, out.texts, strict=True)):
            found = two.get("retrieved")
            answered.append(
                AnsweredBothWays(
                    one,
                    text.strip(),
                    bool(verdicts["retrieved"][number]),
                    bool(verdicts["generated"][number]),
                    found.score if found is not None and found.score is not None else 0.0,
                    decided(two),
                    {name: from_images([image.image])[0] for name, image in two.items()},
                )
            )
    return answered


def decided(both: dict[str, GillImage]) -> str | None:
    """What the model would have done; `None` for no image or no decision head."""
    chances = next(iter(both.values())).decision_probabilities if both else None
    return max(chances, key=lambda name: chances[name]) if chances else None


def judge(images: Sequence[GillImage | None], asked: Sequence[ImagePrompt]) -> np.ndarray:
    """Whether each image shows all that its prompt asks for; none shows nothing."""
    verdicts = np.zeros(len(asked), dtype=bool)
    pixels = {number: image.image for number, image in enumerate(images) if image is not None}
    if pixels:
        there = list(pixels)
        verdicts[there] = correctness(
            read(from_images(list(pixels.values()))), [asked[number].scene for number in there]
        )["scene"]
    return verdicts
