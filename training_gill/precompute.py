"""Compute once what never changes: text-encoder targets of all captions and, on demand, features of all images.

    python -m training_gill.precompute --dataset cc3m_train.tsv --image-generator ID --out CACHE [--image-features]

Run again after an interruption, or over more data, it goes on where it was.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tqdm import tqdm
from transformers import MODEL_MAPPING, AutoImageProcessor, AutoTokenizer
from transformers.utils import cached_file

from modeling_gill.image_loading_gill import ImageError, load_image

from .frozen_models import load_part, load_vision_config
from .image_feature_cache import FOLDER as FEATURES_FOLDER
from .image_feature_cache import feature_info, write_unreadable
from .keyed_arrays import CacheError, KeyedArrayWriter
from .recipe import RecipeError, fail
from .text_targets_cache import FOLDER as TARGETS_FOLDER
from .text_targets_cache import target_info
from .training_data import CaptionedImages, CaptionedImageStream, DataError, open_data

DTYPES = {"float16": np.float16, "float32": np.float32}


class TextEncoder:
    """
    The generator's own tokenizer and text encoder, as Stable Diffusion uses them.

    Args:
        name (`str`): A diffusers repository.
        revision (`str`, *optional*): Of it.
        device (`str`): To run on.

    Attributes:
        shape (`tuple[int, int]`): (L, c) of what it makes of a caption.

    Raises:
        DataError: none there.
    """

    def __init__(self, name: str, revision: str | None, device: str) -> None:
        hub = {"revision": revision or "main"}
        try:
            index = json.loads(Path(str(cached_file(name, "model_index.json", **hub))).read_text(encoding="utf-8"))
            tokenizer_class = getattr(transformers, index["tokenizer"][1], AutoTokenizer)
            self.tokenizer = tokenizer_class.from_pretrained(name, subfolder="tokenizer", **hub)
            encoder_class = getattr(transformers, index["text_encoder"][1])
            self.encoder = encoder_class.from_pretrained(name, subfolder="text_encoder", **hub)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"The text encoder of the image generator {name!r} could not be loaded: {error}") from error
        self.encoder = self.encoder.to(device).eval()
        self.device = device
        self.shape = (int(self.tokenizer.model_max_length), int(self.encoder.config.hidden_size))

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """Float32 `(captions, L, c)`."""
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

    Raises:
        RecipeError: none there.
    """

    def __init__(self, name: str, revision: str | None, device: str) -> None:
        config = load_vision_config(name, revision)
        self.model = load_part(MODEL_MAPPING[type(config)], "vision_model", name, revision).to(device).eval()
        self.processor = load_part(AutoImageProcessor, "vision_model", name, revision)
        self.device = device
        self.width = int(config.hidden_size)

    @torch.no_grad()
    def __call__(self, images: Sequence[Any]) -> np.ndarray:
        """Float32 `(images, v)`."""
        values = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return self.model(values.to(self.device)).pooler_output.float().cpu().numpy()


def precompute_targets(
    encoder: TextEncoder,
    info: dict[str, Any],
    captions: Iterable[str],
    out: Path,
    batch_size: int,
    dtype: str,
    total: int | None,
) -> int:
    """Write targets of all captions that are not written yet; returns how many were made now."""
    writer = KeyedArrayWriter(out / TARGETS_FOLDER, {**info, "dtype": dtype})
    made = 0
    usable = (caption for caption in captions if isinstance(caption, str) and caption.strip())
    with tqdm(total=total, desc="text targets", unit="caption", mininterval=1) as bar:
        seen = writer.missing(_counted(usable, bar))
        for batch in _batches(seen, batch_size):
            for caption, value in zip(batch, encoder(batch), strict=True):
                writer.add(caption, value.astype(DTYPES[dtype]))
            made += len(batch)
    writer.finish()
    return made


def precompute_features(
    encoder: ImageEncoder,
    info: dict[str, Any],
    examples: Iterable[dict[str, Any]],
    out: Path,
    batch_size: int,
    dtype: str,
    total: int | None,
) -> tuple[int, dict[str, str]]:
    """Write features of all images that are not written yet.

    Returns:
        `tuple[int, dict[str, str]]`: How many were made now, and why others could not be, by their examples' keys.
    """
    writer = KeyedArrayWriter(out / FEATURES_FOLDER, {**info, "dtype": dtype})
    made = 0
    unreadable: dict[str, str] = {}

    def readable() -> Iterator[tuple[str, Any]]:
        for example in tqdm(examples, total=total, desc="image features", unit="image", mininterval=1):
            for key in writer.missing([example["key"]]):
                try:
                    if "problem" in example:
                        raise ImageError(example["problem"])
                    yield key, load_image(example["image"])
                except ImageError as error:
                    unreadable[key] = str(error)

    for batch in _batches(readable(), batch_size):
        for (key, _), value in zip(batch, encoder([image for _, image in batch]), strict=True):
            writer.add(key, value.astype(DTYPES[dtype]))
        made += len(batch)
    write_unreadable(out, unreadable)
    writer.finish()
    return made, unreadable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 2 for input that cannot be used."""
    args = _parser().parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        run(args)
    except (DataError, CacheError, RecipeError) as error:
        return fail(error)
    return 0


def run(args: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        DataError, CacheError, RecipeError: input that cannot be used.
    """
    folders = args.image_folder or [None] * len(args.dataset)
    if len(folders) != len(args.dataset):
        raise DataError(
            f"{len(folders)} --image-folder were given for {len(args.dataset)} --dataset; expected one each."
        )
    opened = [
        open_data(source, args.split, folder, args.image_column, args.caption_column, args.streaming)
        for source, folder in zip(args.dataset, folders, strict=True)
    ]
    lengths = [len(data) for data in opened if isinstance(data, CaptionedImages)]
    total = sum(lengths) if len(lengths) == len(opened) else None
    if args.image_generator is None and not args.image_features:
        raise DataError("Nothing to do: give --image-generator, or --image-features with --vision-model.")
    if args.image_generator is not None:
        text = TextEncoder(args.image_generator, args.image_generator_revision, args.device)
        info = target_info(args.image_generator, args.image_generator_revision, *text.shape)
        captions = (caption for data in opened for caption in _captions(data))
        made = precompute_targets(text, info, captions, args.out, args.batch_size, args.dtype, total)
        print(f"wrote {made} text targets of {text.shape[0]} x {text.shape[1]} to {args.out / TARGETS_FOLDER}")
    if args.image_features:
        if args.vision_model is None:
            raise DataError("--image-features needs --vision-model, the image encoder that the model will have.")
        images = ImageEncoder(args.vision_model, args.vision_model_revision, args.device)
        info = feature_info(args.vision_model, args.vision_model_revision, images.width)
        examples = (example for data in opened for example in _examples(data))
        made, unreadable = precompute_features(images, info, examples, args.out, args.batch_size, args.dtype, total)
        for key, message in unreadable.items():
            print(f"left out: {key.splitlines()[0]}: {message}", file=sys.stderr)
        print(
            f"wrote {made} image features of {images.width} to {args.out / FEATURES_FOLDER}"
            + (f"; {len(unreadable)} images could not be read" if unreadable else "")
        )


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training_gill.precompute",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dataset",
        required=True,
        action="append",
        metavar="DATA",
        help="as train_data of a recipe; may be given several times",
    )
    parser.add_argument("--split", default="train", help="of a data set (default: %(default)s)")
    parser.add_argument("--image-folder", action="append", metavar="FOLDER", help="of a .tsv; by default beside it")
    parser.add_argument("--image-column", metavar="NAME")
    parser.add_argument("--caption-column", metavar="NAME")
    parser.add_argument("--streaming", action="store_true", help="read as a stream")
    parser.add_argument("--out", required=True, type=Path, metavar="CACHE", help="folder to write")
    parser.add_argument("--image-generator", metavar="ID", help="diffusers repository whose text encoder is used")
    parser.add_argument("--image-generator-revision", metavar="REV")
    parser.add_argument("--image-features", action="store_true", help="write features of the images, too")
    parser.add_argument("--vision-model", metavar="ID", help="image encoder for --image-features")
    parser.add_argument("--vision-model-revision", metavar="REV")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="to store (default: %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
