"""Compute once what never changes: text-encoder targets of captions and, on demand, features of images."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm.auto import tqdm
from transformers import AutoTokenizer
from transformers.utils import cached_file

from modeling_gill.image_encoder_gill import (
    ImagePooling,
    encode_images,
    feature_shape,
    load_image_encoder,
    load_image_processor,
    preprocess_images,
)
from modeling_gill.image_loading_gill import ImageError
from pipeline_gill.caption_files import read_json

from .arguments import PrecomputeArguments
from .caches import (
    DTYPES,
    ArrayCacheWriter,
    ImageFeatureCache,
    TextTargetsCache,
    feature_info,
    read_unreadable,
    target_info,
    write_unreadable,
)
from .callbacks import hide_loading_bars
from .frozen_models import FrozenModel, full_path, load_part, load_vision_config
from .training_data import CaptionedImages, CaptionedImageStream, DataError, load_example_image, open_data


@dataclass
class Precomputed:
    """
    What [`precompute`] did.

    Attributes:
        targets, features (`int`, *optional*): How many were computed now; `None` where none were asked for.
        unreadable (`dict[str, str]`): Why images have no feature, by their examples' keys.
    """

    targets: int | None = None
    features: int | None = None
    unreadable: dict[str, str] = field(default_factory=dict)


def precompute(arguments: PrecomputeArguments) -> Precomputed:
    """
    Compute text-encoder targets of all captions of a dataset and, on demand, features of all images.

    Run again after an interruption, or over more data, it continues where it was.

    Raises:
        ValueError: data, models or a cache that cannot be used, or another process writes to the cache. OSError: a full
            disk and the like.

    Example:

        >>> from training_gill import PrecomputeArguments, precompute
        >>> arguments = PrecomputeArguments(["cc3m.tsv"], "cache", image_generator="org/generator")
        >>> precompute(arguments).targets  # doctest: +SKIP
        3318333
    """
    datasets = _open(arguments)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    lengths = [len(data) for data in datasets if isinstance(data, CaptionedImages)]
    total = sum(lengths) if len(lengths) == len(datasets) else None
    out, result = Path(arguments.out), Precomputed()
    # Both encoders first: a mistake in the second is not found after hours of the first.
    text = image = None
    if arguments.image_generator is not None:
        text = TextEncoder(arguments.image_generator, arguments.image_generator_revision, device)
    if arguments.image_features:
        pooling = ImagePooling(arguments.vision_pooling, arguments.vision_feature_layer, arguments.num_visual_tokens)
        image = ImageEncoder(str(arguments.vision_model), arguments.vision_model_revision, device, pooling)
    if text is not None:
        info = target_info(arguments.image_generator, arguments.image_generator_revision, *text.shape)
        captions = (caption for data in datasets for caption in _captions(data))
        with ArrayCacheWriter(out / TextTargetsCache.FOLDER, info, text.shape, arguments.dtype) as writer:
            result.targets = _write_targets(writer, text, captions, arguments.batch_size, total)
    if image is not None:
        info = feature_info(arguments.vision_model, arguments.vision_model_revision, image.shape, image.pooling)
        examples = (example for data in datasets for example in _examples(data))
        with ArrayCacheWriter(out / ImageFeatureCache.FOLDER, info, image.shape, arguments.dtype) as writer:
            result.features, result.unreadable = _write_features(writer, image, examples, arguments.batch_size, total)
    return result


def run_precompute(arguments: PrecomputeArguments) -> None:
    """Run `gill precompute`."""
    hide_loading_bars()
    result, out = precompute(arguments), Path(arguments.out)
    if result.targets is not None:
        print(f"wrote {result.targets} text targets to {out / TextTargetsCache.FOLDER}")
    for reason in result.unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    if result.features is not None:
        unreadable = f"; {len(result.unreadable)} images could not be read" if result.unreadable else ""
        print(f"wrote {result.features} image features to {out / ImageFeatureCache.FOLDER}{unreadable}")


class TextEncoder:
    """
    The generator's own tokenizer and text encoder, as Stable Diffusion uses them.

    Args:
        name (`str`): A diffusers repository.
        revision (`str`, *optional*): Of it.
        device (`str`): To run on.

    Attributes:
        shape (`tuple[int, int]`): `(sequence_length, hidden_size)` of a caption's embeddings.

    Raises:
        DataError: none there.
    """

    def __init__(self, name: str, revision: str | None, device: str) -> None:
        hub = {"revision": revision or "main"}
        try:
            index = read_json(str(cached_file(name, "model_index.json", **hub)))
            tokenizer_class = getattr(transformers, index["tokenizer"][1], AutoTokenizer)
            self.tokenizer = tokenizer_class.from_pretrained(name, subfolder="tokenizer", **hub)
            encoder_class = getattr(transformers, index["text_encoder"][1])
            self.encoder = encoder_class.from_pretrained(name, subfolder="text_encoder", **hub)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"The text encoder of the image generator {name!r} could not be loaded: {error}") from error
        self.encoder = self.encoder.to(device).eval()
        self.device = device
        self.shape = (int(self.tokenizer.model_max_length), int(self.encoder.config.hidden_size))

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Float32 of shape `(num_captions, sequence_length, hidden_size)`."""
        tokens = self.tokenizer(
            list(captions), padding="max_length", max_length=self.shape[0], truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask if getattr(self.encoder.config, "use_attention_mask", False) else None
        states = self.encoder(
            tokens.input_ids.to(self.device), attention_mask=None if mask is None else mask.to(self.device)
        )[0]
        return states.float().cpu().numpy()


class ImageEncoder:
    """
    The image encoder with its own preprocessing.

    Args:
        name (`str`): Its repository, or that of a whole CLIP.
        revision (`str`, *optional*): Of it.
        device (`str`): To run on.
        pooling (`ImagePooling`, *optional*): Which feature.

    Attributes:
        shape (`tuple[int, ...]`): Of an image's feature.

    Raises:
        FrozenModelError: it cannot be loaded. ValueError: it does not give this feature.
    """

    def __init__(self, name: str, revision: str | None, device: str, pooling: ImagePooling | None = None) -> None:
        pooling = pooling or ImagePooling()
        source = FrozenModel("image encoder", full_path(name), "`vision_model`", revision)
        config = load_vision_config(source)
        self.processor = load_part(load_image_processor, source, "image processor")
        self.shape = feature_shape(config, pooling, self.processor)
        self.pooling = replace(pooling, num_tokens=self.shape[0] if pooling.kind == "patches" else None)
        options = {"vision_config": config, "pooling": pooling}
        self.model = load_part(load_image_encoder, source, "weights", **options).to(device).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, images: Sequence[Any]) -> np.ndarray:
        """Float32 of shape `(num_images, *shape)`."""
        prepared = preprocess_images(self.processor, images)
        inputs = {name: value.to(self.device) for name, value in prepared.items()}
        return encode_images(self.model, self.pooling, **inputs).pooler_output.float().cpu().numpy()


def _open(arguments: PrecomputeArguments) -> list[CaptionedImages | CaptionedImageStream]:
    """
    Check the arguments, and open the data.

    Raises:
        DataError: something is missing or contradicts something else.
    """
    if not arguments.dataset or not arguments.out:
        raise DataError("Name the data with `dataset`, and the folder to write with `out`.")
    if arguments.dtype not in DTYPES:
        raise DataError(f"`dtype` must be one of {[*DTYPES]}, got {arguments.dtype!r}.")
    if arguments.batch_size < 1:
        raise DataError(f"`batch_size` must be at least 1, got {arguments.batch_size}.")
    if arguments.image_generator is None and not arguments.image_features:
        raise DataError("Nothing to do: name `image_generator`, or set `image_features` and name `vision_model`.")
    if arguments.image_features and arguments.vision_model is None:
        raise DataError("`image_features` needs `vision_model`, the image encoder.")
    folders: list[str | None] = [*arguments.image_folder] or [None] * len(arguments.dataset)
    if len(folders) != len(arguments.dataset):
        raise DataError(f"{len(folders)} `image_folder` for {len(arguments.dataset)} `dataset`; expected one each.")
    columns = (arguments.image_column, arguments.caption_column)
    return [
        open_data(source, arguments.split, folder, *columns, arguments.streaming)
        for source, folder in zip(arguments.dataset, folders, strict=True)
    ]


def _write_targets(
    writer: ArrayCacheWriter, encoder: TextEncoder, captions: Iterable[str], batch_size: int, total: int | None
) -> int:
    """Write targets of all captions that are not written yet; returns how many."""
    written = 0
    usable = (caption for caption in captions if isinstance(caption, str) and caption.strip())
    with tqdm(total=total, desc="text targets", unit="caption", mininterval=1, disable=None) as bar:
        for batch in _batches(writer.missing(_counted(usable, bar)), batch_size):
            for caption, value in zip(batch, encoder(batch), strict=True):
                writer.add(caption, value)
            written += len(batch)
    return written


def _write_features(
    writer: ArrayCacheWriter,
    encoder: ImageEncoder,
    examples: Iterable[dict[str, Any]],
    batch_size: int,
    total: int | None,
) -> tuple[int, dict[str, str]]:
    """Write features of all images that are not written yet; returns how many, and why others could not be."""
    written = 0
    unreadable: dict[str, str] = {}

    def readable() -> Iterator[tuple[str, Any]]:
        bar = tqdm(examples, total=total, desc="image features", unit="image", mininterval=1, disable=None)
        for example in bar:
            for key in writer.missing([example["key"]]):
                try:
                    yield key, load_example_image(example)
                except ImageError as error:
                    unreadable[key] = f"{example['name']}: {error}"

    before = read_unreadable(writer.folder)
    for batch in _batches(readable(), batch_size):
        for (key, _), value in zip(batch, encoder([image for _, image in batch]), strict=True):
            writer.add(key, value)
            before.pop(key, None)
        written += len(batch)
    write_unreadable(writer.folder, {**before, **unreadable})
    return written, unreadable


def _captions(data: CaptionedImages | CaptionedImageStream) -> Iterable[str]:
    return data.captions() if isinstance(data, CaptionedImages) else (example["caption"] for example in data)


def _examples(data: CaptionedImages | CaptionedImageStream) -> Iterable[dict[str, Any]]:
    return (data[i] for i in range(len(data))) if isinstance(data, CaptionedImages) else data


def _counted(items: Iterable[str], bar: Any) -> Iterator[str]:
    for item in items:
        bar.update()
        yield item


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


__all__ = ["ImageEncoder", "Precomputed", "TextEncoder", "precompute", "run_precompute"]
