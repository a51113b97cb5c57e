"""Image panels that show how far training is: caption, true image, retrieved image, generated image."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import TrainerCallback
from transformers.utils import logging

from modeling_gill import GillProcessor
from modeling_gill.image_loading_gill import ImageError
from modeling_gill.image_preprocessing_gill import preprocess_images
from pipeline_gill.conditioning_capture_gill import capture_negatives, generator_arguments
from pipeline_gill.contact_sheet import contact_sheet
from pipeline_gill.generator_call_gill import without_negative_prompt

from .target_encoder import load_generator
from .training_data import CaptionedImages, load_example_image
from .training_step import AdapterTrainingStep

logger = logging.get_logger(__name__)

CELL = 128  # pixels of an image on the panel
_CANDIDATES = 64  # images that are retrieved from
_HEADINGS = ("true", "retrieved", "generated")


class ImagePanel(TrainerCallback):
    """
    Writes `step-000100.png` into a folder, and the same into TensorBoard where that is on.

    Args:
        step ([`AdapterTrainingStep`]): The model that is trained.
        processor ([`GillProcessor`]): Its processor.
        data ([`CaptionedImages`]): Whose first readable examples are shown, and whose images are retrieved from.
        folder (`Path`): For the panels.
        every (`int`): Steps between two panels.
        num_examples (`int`): Examples on a panel.
        generate (`bool`): Whether to run the image generator that the model's configuration names.
    """

    def __init__(
        self,
        step: AdapterTrainingStep,
        processor: GillProcessor,
        data: CaptionedImages,
        folder: Path,
        every: int,
        num_examples: int,
        generate: bool,
    ) -> None:
        self.gill, self.step, self.processor = step.gill, step, processor
        self.data, self.folder, self.every = data, folder, every
        self.num_examples, self.generate = num_examples, generate
        self._generator: Any = None
        self._negatives: dict[str, torch.Tensor] = {}
        self._examples: list[tuple[str, Image.Image]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and state.global_step % self.every == 0:
            panel = self.draw()
            if panel is None:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            panel.save(self.folder / f"step-{state.global_step:06d}.png")
            self._to_tensorboard(panel, kwargs.get("callback_handler"), state.global_step, args)

    @torch.no_grad()
    def draw(self) -> Image.Image | None:
        """The current panel, or `None` where no example can be read."""
        self._read_examples()
        if not self._examples:
            return None
        # Panels change neither the random numbers of training nor what is trained.
        devices = [self.gill.device] if self.gill.device.type == "cuda" else []
        training = self.step.training
        self.step.eval()
        try:
            with torch.random.fork_rng(devices):
                rows = self._rows()
        finally:
            self.step.train(training)
        return _lay_out(rows)

    def _rows(self) -> list[tuple[str, list[Image.Image | None]]]:
        shown = self._examples[: self.num_examples]
        batch = self.processor([caption for caption, _ in shown], add_img_tokens=True).to(self.gill.device)
        written = self.gill(**batch, logits_to_keep=1, use_cache=False, output_images=True)
        images = [image for _, image in self._examples]
        embeds = self.gill.get_image_retrieval_embeddings(**preprocess_images(self.processor.image_processor, images))
        best = self.gill.retrieval_scores(written.retrieval_embeds, embeds).argmax(1).tolist()
        drawn: list[Any] = [None] * len(shown)
        if self.generate and written.conditioning is not None:
            drawn = self._draw_images(written.conditioning)
        return [
            (caption, [image, images[best[number]], drawn[number]]) for number, (caption, image) in enumerate(shown)
        ]

    def _draw_images(self, conditioning: dict[str, torch.Tensor]) -> list[Any]:
        if self._generator is None:
            config = self.gill.config
            self._generator = load_generator(config.image_generator_id, config.image_generator_revision)
            self._generator.to(self.gill.device)
            self._negatives = capture_negatives(self._generator, config.conditioning_tensors)
        count = len(next(iter(conditioning.values())))
        negatives = {name: values.expand(count, *values.shape[1:]) for name, values in self._negatives.items()}
        arguments = generator_arguments({**conditioning, **negatives}, self.gill.config.conditioning_tensors)
        # One seed, so that panels differ by the training alone.
        generator = torch.Generator().manual_seed(0)
        return list(
            self._generator(
                **arguments,
                **without_negative_prompt(self._generator),
                num_inference_steps=20,
                generator=generator,
            ).images
        )

    def _read_examples(self) -> None:
        for index in range(len(self.data)):
            if len(self._examples) >= max(_CANDIDATES, self.num_examples) or index > 4 * _CANDIDATES:
                return
            example = self.data[index]
            try:
                if isinstance(example["caption"], str) and example["caption"].strip():
                    self._examples.append((example["caption"], load_example_image(example)))
            except ImageError as error:
                logger.info(f"Not on the image panel: {error}")

    def _to_tensorboard(self, panel: Image.Image, handler: Any, step: int, args: Any) -> None:
        if "tensorboard" not in args.report_to:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(self.folder)) as writer:
            writer.add_image("panel", np.asarray(panel), step, dataformats="HWC")


def _lay_out(rows: list[tuple[str, list[Image.Image | None]]]) -> Image.Image:
    columns = [n for n in range(3) if any(images[n] is not None for _, images in rows)]
    cells = [[caption, *(images[n] for n in columns)] for caption, images in rows]
    return contact_sheet(cells, cell=CELL, gap=4, headings=("caption", *(_HEADINGS[n] for n in columns)))


__all__ = ["CELL", "ImagePanel"]
