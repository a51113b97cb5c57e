"""Compute once what never changes: the image generator's conditioning for captions, features of images, and states of
the language model at fixed `[IMG]` tokens."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_gill.image_encoder_gill import encode_images, feature_shape, load_image_encoder
from modeling_gill.image_loading_gill import ImageError
from modeling_gill.image_pooling_gill import ImagePooling
from modeling_gill.image_preprocessing_gill import load_image_processor, preprocess_images
from pipeline_gill.frozen_models import FrozenModel, full_path, load_part, load_vision_config

from .arguments import PrecomputeArguments
from .array_cache import ArrayCacheWriter
from .array_shards import DTYPES, Column
from .caches import (
    ImageFeatureCache,
    LanguageStatesCache,
    TextTargetsCache,
    begun_conditioning,
    feature_info,
    read_unreadable,
    target_columns,
    target_info,
    write_negatives,
    write_unreadable,
)
from .callbacks import hide_loading_bars
from .language_states import LanguageStateEncoder
from .recipe import read_recipe
from .target_encoder import TargetEncoder, with_measured_scales
from .training_data import CaptionedImages, CaptionedImageStream, DataError, load_example_image, open_data

# Captions that units of tensors and the size of a ragged cache are estimated from.
_SAMPLED = 64
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Precomputed:
    """
    What [`precompute`] did.

    Attributes:
        targets, features, states (`int`, *optional*): How many were computed now; `None` where none were asked for.
        unreadable (`dict[str, str]`): Why images have no feature, by their examples' keys.
    """

    targets: int | None = None
    features: int | None = None
    states: int | None = None
    unreadable: dict[str, str] = field(default_factory=dict)


def precompute(arguments: PrecomputeArguments, say: Callable[[str], None] | None = None) -> Precomputed:
    """
    Compute the image generator's conditioning for all captions of a dataset and, on demand, features of all images and
    states of the language model.

    Run again after an interruption, or over more data, it continues where it was. Processes that share the work are
    started with `shard` and `num_shards`, or together by torchrun or `accelerate launch`; each writes a part of the
    same cache.

    Args:
        arguments ([`PrecomputeArguments`]): The data, the models and the folder to write.
        say (`Callable[[str], None]`, *optional*): Takes the size of what is going to be written, before it is.

    Raises:
        ValueError: data, models or a cache that cannot be used, an image generator that cannot be conditioned by a
            model, or another process writes to the cache. OSError: a full disk and the like.

    Example:

        >>> from training_gill import PrecomputeArguments, precompute
        >>> arguments = PrecomputeArguments(["cc3m.tsv"], "cache", image_generator="org/generator")
        >>> precompute(arguments).targets  # doctest: +SKIP
        3318333
    """
    datasets = _open(arguments)
    part, device = _part(arguments), _device(arguments)
    lengths = [len(data) for data in datasets if isinstance(data, CaptionedImages)]
    total = sum(lengths) if len(lengths) == len(datasets) else None
    out, result = Path(arguments.out), Precomputed()
    # All encoders first: a mistake in the second is not found after hours of the first.
    text = image = states = None
    if arguments.image_generator is not None:
        options = _generator_options(arguments.image_generator_kwargs)
        dtype = _DTYPES[arguments.generator_dtype]
        text = TargetEncoder(arguments.image_generator, arguments.image_generator_revision, device, dtype, options)
    if arguments.image_features:
        pooling = ImagePooling(arguments.vision_pooling, arguments.vision_feature_layer, arguments.num_visual_tokens)
        image = ImageEncoder(str(arguments.vision_model), arguments.vision_model_revision, device, pooling)
    if arguments.language_states is not None:
        states = LanguageStateEncoder(read_recipe(arguments.language_states, use_cpu=True), device)
    if text is not None:
        sample = text(list(islice(_target_captions(datasets), _SAMPLED)) or [""])
        tensors = begun_conditioning(out, text.tensors, part) or with_measured_scales(text.tensors, sample)
        info = target_info(arguments.image_generator, arguments.image_generator_revision, tensors)
        if options:
            info["image_generator_kwargs"] = options
        columns = target_columns(tensors)
        if say is not None:
            say(_size_line("text targets", "captions", _bytes_each(sample, arguments.dtype), total, out, part))
        with ArrayCacheWriter(out / TextTargetsCache.FOLDER, info, columns, arguments.dtype, part=part) as writer:
            if part[0] == 0:
                write_negatives(out, text.negatives())
            captions = _target_captions(datasets)
            result.targets = _write_by_caption(writer, text, captions, arguments.batch_size, total, "text targets")
    if states is not None:
        if say is not None:
            each = int(np.prod(states.shape)) * np.dtype(DTYPES[arguments.dtype]).itemsize
            say(_size_line("language states", "captions", each, total, out, part))
        folder, columns = out / LanguageStatesCache.FOLDER, [Column(states.shape)]
        with ArrayCacheWriter(folder, states.info(), columns, arguments.dtype, part=part) as writer:
            captions = _captions(datasets)
            result.states = _write_by_caption(writer, states, captions, arguments.batch_size, total, "language states")
    if image is not None:
        info = feature_info(arguments.vision_model, arguments.vision_model_revision, image.shape, image.pooling)
        examples = (example for data in datasets for example in _examples(data))
        columns = [Column(image.shape)]
        if say is not None:
            each = int(np.prod(image.shape)) * np.dtype(DTYPES[arguments.dtype]).itemsize
            say(_size_line("image features", "images", each, total, out, part))
        with ArrayCacheWriter(out / ImageFeatureCache.FOLDER, info, columns, arguments.dtype, part=part) as writer:
            result.features, result.unreadable = _write_features(writer, image, examples, arguments.batch_size, total)
    return result


def run_precompute(arguments: PrecomputeArguments) -> None:
    """Run `gill precompute`."""
    hide_loading_bars()
    result, out = precompute(arguments, say=print), Path(arguments.out)
    if result.targets is not None:
        print(f"wrote {result.targets} text targets to {out / TextTargetsCache.FOLDER}")
    if result.states is not None:
        print(f"wrote {result.states} language states to {out / LanguageStatesCache.FOLDER}")
    for reason in result.unreadable.values():
        print(f"left out: {reason}", file=sys.stderr)
    if result.features is not None:
        unreadable = f"; {len(result.unreadable)} images could not be read" if result.unreadable else ""
        print(f"wrote {result.features} image features to {out / ImageFeatureCache.FOLDER}{unreadable}")


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
    if arguments.generator_dtype not in _DTYPES:
        raise DataError(f"`generator_dtype` must be one of {[*_DTYPES]}, got {arguments.generator_dtype!r}.")
    if arguments.batch_size < 1:
        raise DataError(f"`batch_size` must be at least 1, got {arguments.batch_size}.")
    if arguments.image_generator is None and not arguments.image_features and arguments.language_states is None:
        raise DataError(
            "Nothing to do: name `image_generator`, set `image_features` and name `vision_model`, or name a recipe by "
            "`language_states`."
        )
    if arguments.image_features and arguments.vision_model is None:
        raise DataError("`image_features` needs `vision_model`, the image encoder.")
    folders: list[str | None] = [*arguments.image_folder] or [None] * len(arguments.dataset)
    if len(folders) != len(arguments.dataset):
        raise DataError(f"{len(folders)} `image_folder` for {len(arguments.dataset)} `dataset`; expected one each.")
    columns = (arguments.image_column, arguments.caption_column)
    return [
        open_data(
            source,
            arguments.split,
            folder,
            *columns,
            arguments.streaming,
            target_caption_column=arguments.target_caption_column,
        )
        for source, folder in zip(arguments.dataset, folders, strict=True)
    ]


def _write_by_caption(
    writer: ArrayCacheWriter,
    encoder: Callable[[list[str]], Sequence[dict[str, np.ndarray]]],
    captions: Iterable[str],
    batch_size: int,
    total: int | None,
    what: str,
) -> int:
    """Write targets or states of all captions that are not written yet; returns how many."""
    written = 0
    with tqdm(total=total, desc=what, unit="caption", mininterval=1, disable=None) as bar:
        for batch in _batches(writer.missing(_counted(captions, bar)), batch_size):
            for caption, target in zip(batch, encoder(batch), strict=True):
                # One plain array is stored as the only column.
                writer.add(caption, target if len(target) > 1 else target.popitem()[1])
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


def _part(arguments: PrecomputeArguments) -> tuple[int, int]:
    """Which part of the work is this process's, and of how many parts."""
    given = (arguments.shard, arguments.num_shards)
    if given == (None, None):
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    shard, count = given
    if shard is None or count is None or not 0 <= shard < count:
        raise DataError(f"`shard` must be one of 0 to `num_shards` - 1, got `shard` {shard}, `num_shards` {count}.")
    return shard, count


def _device(arguments: PrecomputeArguments) -> str:
    if arguments.device is not None:
        return arguments.device
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _generator_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the generator's call, those that a command line gave as text as JSON reads them."""
    options: dict[str, Any] = {}
    for name, value in given.items():
        try:
            options[name] = json.loads(value) if isinstance(value, str) else value
        except ValueError:
            options[name] = value
    return options


def _size_line(what: str, unit: str, each: int, total: int | None, out: Path, part: tuple[int, int]) -> str:
    """How large a cache is going to be, at most, since nothing is written twice."""
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = f"{shutil.disk_usage(place).free / 1e9:,.1f} GB are free"
    if total is None:
        return f"{what}: {each:,} bytes for each of the {unit} of a stream; {free}"
    share = f", part {part[0]} of {part[1]} of these" if part[1] > 1 else ""
    size = f"{total * each / 1e9:,.1f} GB" if total * each > 1e9 else f"{total * each:,} bytes"
    return f"{what}: {total:,} {unit} x {each:,} bytes = {size}{share}; {free}"


def _bytes_each(targets: Sequence[Mapping[str, np.ndarray]], dtype: str) -> int:
    """Mean bytes of a target."""
    sizes = [sum(value.size for value in target.values()) for target in targets]
    return round(sum(sizes) / len(sizes) * np.dtype(DTYPES[dtype]).itemsize)


def _captions(datasets: Iterable[CaptionedImages | CaptionedImageStream]) -> Iterator[str]:
    """All captions that are text."""
    for data in datasets:
        captions = data.captions() if isinstance(data, CaptionedImages) else (example["caption"] for example in data)
        yield from (caption for caption in captions if isinstance(caption, str) and caption.strip())


def _target_captions(datasets: Iterable[CaptionedImages | CaptionedImageStream]) -> Iterator[str]:
    """What the image generator is asked for, where that is text."""
    for data in datasets:
        if isinstance(data, CaptionedImages):
            captions = data.target_captions()
        else:
            captions = (example["target_caption"] for example in data)
        yield from (caption for caption in captions if isinstance(caption, str) and caption.strip())


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


__all__ = ["ImageEncoder", "Precomputed", "precompute", "run_precompute"]
