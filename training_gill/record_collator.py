"""Records to batches for a step that trains a model to write and draw: tokens, labels, images read and targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from modeling_gill import GillProcessor
from modeling_gill.image_loading_gill import ImageError, load_image
from modeling_gill.image_preprocessing_gill import preprocess_images

from .collator import UnreadableExample, pad_rows
from .record_encoding import IGNORED, EncodedRecord, RecordEncoder
from .records import Direction, PairRecord, Record, RecordImage
from .seeded_random import random_fraction
from .tar_shards import TarMember
from .target_images import target_image


class _TooSmall(ImageError):
    """An image with a shorter side than asked for: left out on purpose."""


@dataclass
class _Prepared:
    """An image as the encoder reads it and as the generator is to draw it, each where that is needed."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    target: torch.Tensor | None = None


class RecordCollator:
    """
    Makes batches of records, each a row.

    Images are counted in reading order through the batch: the n-th placeholder run of `input_ids`, row by row from
    left to right, is the n-th of `pixel_values`, and the n-th run of `image_output_token_ids` is the n-th of
    `target_images`. A record whose image cannot be read is left out as a whole (of a document, only that image with
    its tokens), so that the images after it keep their places.

    A pair becomes one direction or the other by a fair coin where its set says `"both"`. The coin, as the one for
    mirroring, depends on `seed` and the example's `index` alone, so that it is the same in every process, worker and
    resumed run, and another one when the record comes again.

    Args:
        processor ([`GillProcessor`]): Of the model that is trained.
        target_size (`int`, *optional*): Side of the generator's images in pixels; `None` for no `target_images`.
        max_length (`int`, defaults to 2048): Tokens of a record, see [`RecordEncoder`].
        seed (`int`, defaults to 0): Of all random numbers.
        padding_side (`str`, defaults to `"right"`): `"right"` or `"left"`.
        random_flip (`bool`, defaults to `False`): Mirror half of the target images. DreamLLM's authors do; captions
            that say left and right are then wrong for half of them.

    Raises:
        ValueError: a size below 1, a `max_length` that is too short, another padding side.
    """

    def __init__(
        self,
        processor: GillProcessor,
        target_size: int | None = None,
        max_length: int = 2048,
        seed: int = 0,
        padding_side: str = "right",
        random_flip: bool = False,
    ) -> None:
        if target_size is not None and target_size < 1:
            raise ValueError(f"`target_size` is a number of pixels, got {target_size}.")
        if padding_side not in ("right", "left"):
            raise ValueError(f"`padding_side` must be 'right' or 'left', got {padding_side!r}.")
        self.encoder = RecordEncoder(processor, max_length)
        self.processor, self.target_size, self.seed = processor, target_size, seed
        self.padding_side, self.random_flip = padding_side, random_flip

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            examples: As [`RecordMixture`] gives them: `index` (`int`), `name` (`str`, for messages), `record` and
                `direction`, or `problem` (`str`) for one that could not be read; `notes` (`list[str]`, *optional*)
                are messages that come along.

        Returns:
            `dict`:
            - `index` of shape `(batch_size,)`: of the examples that are rows; empty if nothing could be read.
            - `input_ids`, `attention_mask`, `labels` of shape `(batch_size, sequence_length)`; labels are -100 where
              nothing is predicted, and not shifted.
            - `pixel_values` and whatever else the image processor makes, `(num_images_read, ...)`. Absent where the
              batch reads no image.
            - `target_images` of shape `(num_images_drawn, 3, target_size, target_size)`, float32 in [-1, 1]. Absent
              where the batch draws none, or without `target_size`.
            - `skipped` (`list[str]`): what was left out because it cannot be read.
            - `num_too_small` (`int`): pairs left out because their image is smaller than their set asks for.
        """
        rows: list[tuple[int, EncodedRecord]] = []
        skipped: list[str] = []
        num_too_small = 0
        for example in examples:
            name = example["name"]
            skipped += example.get("notes", ())
            if "problem" in example:
                skipped.append(f"{name}: {example['problem']}")
                continue
            try:
                encoded = self._encoded(example)
            except UnreadableExample as error:
                if isinstance(error.__cause__, _TooSmall):
                    num_too_small += 1
                else:
                    skipped.append(f"{name}: {error}")
                continue
            skipped += [f"{name}: without {message}" for message in encoded.dropped]
            rows.append((int(example["index"]), encoded))
        pad = self.processor.tokenizer.pad_token_id
        ids, labels = [row.input_ids for _, row in rows], [row.labels for _, row in rows]
        batch: dict[str, Any] = {
            "index": torch.tensor([index for index, _ in rows], dtype=torch.long),
            "input_ids": pad_rows(ids, pad, self.padding_side),
            "attention_mask": pad_rows([[1] * len(row) for row in ids], 0, self.padding_side),
            "labels": pad_rows(labels, IGNORED, self.padding_side),
        }
        read: list[dict[str, torch.Tensor]] = [image.inputs for _, row in rows for image in row.images_read]
        for name in read[0] if read else ():
            batch[name] = torch.cat([inputs[name] for inputs in read])
        targets = [
            # Mirrored here, where the number of the image in its record is known.
            image.target.flip(2) if self._is_flipped(index, number) else image.target
            for index, row in rows
            for number, image in enumerate(row.images_drawn)
            if image.target is not None
        ]
        if targets:
            batch["target_images"] = torch.stack(targets)
        return {**batch, "skipped": skipped, "num_too_small": num_too_small}

    def _encoded(self, example: Mapping[str, Any]) -> EncodedRecord:
        record: Record = example["record"]
        direction: Direction = example.get("direction", "both")
        if isinstance(record, PairRecord) and direction == "both":
            draws = random_fraction(self.seed, [example["index"]], "direction") < 0.5
            direction = "text_to_image" if draws else "image_to_text"
        least = record.min_image_side if isinstance(record, PairRecord) else 1

        def open_image(image: RecordImage, reads: bool, draws: bool) -> _Prepared:
            opened = open_record_image(image)
            if min(opened.size) < least:
                raise _TooSmall(f"it is {opened.width} x {opened.height} pixels; expected sides of {least}")
            prepared = _Prepared()
            if reads:
                try:
                    prepared.inputs = preprocess_images(self.processor.image_processor, [opened])
                except Exception as error:  # image processors raise whatever they like for odd sizes
                    raise ImageError(f"the image processor does not take it ({error})") from error
            if draws and self.target_size is not None:
                prepared.target = target_image(opened, self.target_size)
            return prepared

        return self.encoder.encode(record, direction, open_image)

    def _is_flipped(self, index: int, number: int) -> bool:
        return self.random_flip and random_fraction(self.seed, [index, number], "flip") < 0.5


def open_record_image(image: RecordImage) -> Image.Image:
    """
    The image of a record, in RGB.

    Raises:
        ImageError: it cannot be read.
    """
    source = image.source
    return load_image(source.read() if isinstance(source, TarMember) else source)


__all__ = ["RecordCollator", "open_record_image", "target_image"]
