"""Build the set of images that GILL retrieves from.

    python -m pipeline_gill.build_retrieval_set --model org/gill --folder images --out images-gill

The images come from a folder, a list of URLs, a TSV file as CC3M has it, or a data set on disk or on the Hub.
"""

import argparse
import csv
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modeling_gill.fingerprint_gill import fingerprint_name
from modeling_gill.image_loading_gill import IMAGE_SUFFIXES
from pipeline_gill.retrieval_set_gill import RetrievalSet
from pipeline_gill.retrieval_storage_gill import check_free, require_datasets

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HEADER_WORDS = {"caption", "captions", "text", "image", "image_path", "path", "file", "filename", "url", "image_url"}


class Source(NamedTuple):
    """Images with captions, where their relative paths start from, and what to call them."""

    images: Iterator[tuple[Any, str | None]]
    base_dir: Path
    description: str


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; mistakes of the user end it with one line and exit status 1."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        _build(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"build_retrieval_set: {error}")


def folder_source(folder: Path) -> Source:
    """All image files below a folder, in the order of their names, without captions."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder} has no image in it, expected files named {' '.join(sorted(IMAGE_SUFFIXES))}")
    return Source(((path.absolute(), None) for path in files), folder.absolute(), f"folder {folder.name}")


def urls_source(file: Path) -> Source:
    """One URL or path a line; empty lines and those that begin with # are left out."""
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    urls = [line for line in lines if line and not line.startswith("#")]
    return Source(((url, None) for url in urls), file.absolute().parent, f"URLs of {file.name}")


def tsv_source(file: Path, image_column: str | None, caption_column: str | None, image_root: Path | None) -> Source:
    """A file of tab-separated columns: caption and URL or path, or a header that has the columns named."""
    rows = _rows(file)
    if image_column is None and caption_column is None:
        image, caption = 1, 0
        first = next(_rows(file), (1, []))[1]
        if {word.strip().lower() for word in first} <= _HEADER_WORDS:
            raise ValueError(
                f"{file} begins with what looks like a header: {first}; expected caption<TAB>URL or path, "
                "or the columns named by --image-column and --caption-column"
            )
    else:
        header = next(rows, (1, []))[1]
        image = _column(header, image_column or "image", file)
        caption = _column(header, caption_column or "caption", file)
    return Source(_pairs(rows, image, caption, file), (image_root or file.parent).absolute(), f"TSV {file.name}")


def dataset_source(name: str, split: str, image_column: str | None, caption_column: str | None) -> Source:
    """A data set saved by `save_to_disk`, or whatever `datasets.load_dataset` takes."""
    library = require_datasets()
    if (Path(name) / "state.json").is_file() or (Path(name) / "dataset_dict.json").is_file():
        dataset = library.load_from_disk(name)
        if isinstance(dataset, library.DatasetDict):
            if split not in dataset:
                raise ValueError(f"{name} has no split {split!r}, expected one of {list(dataset)}")
            dataset = dataset[split]
    else:
        dataset = library.load_dataset(name, split=split)
    image_column = image_column or "image"
    for column in (image_column, caption_column):
        if column is not None and column not in dataset.column_names:
            raise ValueError(f"{name} has no column {column!r}, expected one of {dataset.column_names}")
    wanted = [column for column in (image_column, caption_column) if column is not None]
    dataset = dataset.select_columns(wanted)
    if isinstance(dataset.features[image_column], library.Image):
        # Decoded by load_image, which has limits; a damaged image is left out then and does not end the build.
        dataset = dataset.cast_column(image_column, library.Image(decode=False))

    def images() -> Iterator[tuple[Any, str | None]]:
        for row in dataset:
            caption = row[caption_column] if caption_column else None
            yield row[image_column], caption[0] if isinstance(caption, list) and caption else caption or None

    return Source(images(), Path.cwd(), f"data set {name}, split {split}")


def _build(options: argparse.Namespace) -> None:
    # Before the model is loaded and hours are spent.
    check_free(options.out, overwrite=options.overwrite)
    source = _source(options)
    model, processor = _load_model(options)
    built = RetrievalSet.build(
        model,
        processor,
        source.images,
        embed_images=not options.no_embed_images,
        batch_size=options.batch_size,
        base_dir=source.base_dir,
        source=source.description,
        max_errors=None if options.max_errors < 0 else options.max_errors,
        timeout=options.timeout,
        workers=options.workers,
    )
    built.save(options.out, overwrite=options.overwrite)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{len(built)} images, {built.info.skipped} skipped")
    print(f"in {options.out} ({size / 1e6:.1f} MB)")
    print(f"for the weights {fingerprint_name(built.info.fingerprint)}")


def _source(options: argparse.Namespace) -> Source:
    if options.folder is not None:
        return folder_source(options.folder)
    if options.urls is not None:
        return urls_source(options.urls)
    if options.tsv is not None:
        return tsv_source(options.tsv, options.image_column, options.caption_column, options.image_root)
    return dataset_source(options.dataset, options.split, options.image_column, options.caption_column)


def _load_model(options: argparse.Namespace) -> tuple[Any, Any]:
    # Late, so that mistakes in the arguments are told before transformers is loaded.
    from transformers import AutoModelForCausalLM

    from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor

    given: dict[str, Any] = {}
    config = GillConfig.from_pretrained(options.model)
    if not config.is_self_contained:
        # Images are embedded without the language model, the largest part by far: its outline will do.
        with torch.device("meta"):
            given["language_model"] = AutoModelForCausalLM.from_config(config.text_config)
    model = GillForConditionalGeneration.from_pretrained(
        options.model, dtype=_DTYPES[options.dtype], trust_remote_code=options.trust_remote_code, **given
    )
    if given:
        model.language_model = None
    # Without an answer in advance, transformers asks on the terminal.
    processor = GillProcessor.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    return model.to(options.device), processor


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        # Captions hold quotation marks that mean nothing.
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in reader:
            if row:
                yield reader.line_num, row


def _pairs(rows: Iterator[tuple[int, list[str]]], image: int, caption: int, file: Path) -> Iterator[tuple[str, str]]:
    for number, row in rows:
        if len(row) <= max(image, caption):
            raise ValueError(
                f"{file}, line {number}: {len(row)} columns {row}, expected at least {max(image, caption) + 1}"
            )
        yield row[image].strip(), row[caption]


def _column(header: list[str], name: str, file: Path) -> int:
    if name not in header:
        raise ValueError(f"{file} has the columns {header}, expected {name!r} among them")
    return header.index(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_gill.build_retrieval_set",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="DIR_OR_ID", help="the GILL model whose answers will retrieve from the set")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for the set; complete afterwards or not there")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--folder", type=Path, help="all image files in this folder and those within it")
    images.add_argument("--urls", type=Path, metavar="FILE", help="text file with a URL or path a line")
    images.add_argument(
        "--tsv", type=Path, metavar="FILE", help="caption<TAB>URL or path, no header unless columns are named"
    )
    images.add_argument("--dataset", metavar="ID_OR_PATH", help="data set on the Hub or on disk")
    add("--split", default="train", help="split of --dataset (default: train)")
    add("--image-column", help="column of images in --tsv or --dataset (default: image)")
    add("--caption-column", help="column of captions in --tsv (default: caption) or --dataset (default: no captions)")
    add("--image-root", type=Path, metavar="DIR", help="where paths in --tsv start from (default: the TSV's folder)")
    add("--no-embed-images", action="store_true", help="note where images are instead of copying them into the set")
    add("--batch-size", type=_positive, default=32, help="images for the model at once (default: 32)")
    add("--workers", type=_positive, default=8, help="images fetched and decoded at once (default: 8)")
    add("--timeout", type=float, default=10.0, metavar="S", help="seconds that one URL may take (default: 10)")
    add(
        "--max-errors",
        type=int,
        default=1000,
        metavar="N",
        help="unreadable images to leave out before giving up; -1: any (default: 1000)",
    )
    add(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: cuda if there is one, else cpu",
    )
    add("--dtype", choices=sorted(_DTYPES), default="float32", help="of the model (default: float32)")
    add("--overwrite", action="store_true", help="replace a retrieval set at --out")
    add("--trust-remote-code", action="store_true", help="run code that the model's repository brings")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected at least 1")
    return number


if __name__ == "__main__":
    main()
