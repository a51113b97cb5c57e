"""Build a retrieval set of a folder, a list of URLs, a TSV of captions, or a dataset: `gill index`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from modeling_gill.fingerprint_gill import fingerprint_name
from modeling_gill.image_loading_gill import ImageError
from modeling_gill.image_sources_gill import IMAGE_SUFFIXES

from .arguments import RetrievalSetOptions
from .caption_files import CaptionFileError, find_image, read_captions, read_lines
from .retrieval_set_gill import RetrievalSet
from .retrieval_storage_gill import check_free, require_datasets


class Source(NamedTuple):
    """Where the images of a set come from.

    Args:
        images (`Iterable`): Pairs of an image, as [`RetrievalSet.build`] takes it, and a caption or `None`.
        base_dir (`Path`): The folder that relative paths start from.
        description (`str`): What to call the source.
        num_images (`int`, *optional*): How many there are, if known.
    """

    images: Iterable[tuple[Any, str | None]]
    base_dir: Path
    description: str
    num_images: int | None = None


def build_retrieval_set(options: RetrievalSetOptions | None = None, **fields: Any) -> RetrievalSet:
    """Embed images with a model and save them as a retrieval set.

    Images that cannot be read are left out, with a warning each. For images in memory see [`RetrievalSet.build`].

    Args:
        options ([`~pipeline_gill.arguments.RetrievalSetOptions`], *optional*): The options.
        fields: The fields of the options, in place of `options`.

    Returns:
        [`RetrievalSet`], which is also in the folder `out`.

    Raises:
        ValueError: options or a file that cannot be used, or no image that can be read.
        OSError: a file or model that is not there, or `out` holds something else.

    Example:

    ```python
    >>> from pipeline_gill import build_retrieval_set

    >>> retrieval_set = build_retrieval_set(model="picturebook/checkpoint", folder="photographs", out="my_set")
    >>> retrieval_set.info.skipped
    0
    ```
    """
    if options is None:
        options = RetrievalSetOptions(**fields)
    elif fields:
        raise ValueError("`build_retrieval_set` takes either `RetrievalSetOptions` or its fields.")
    # Before the model is loaded and hours are spent.
    check_free(options.out, overwrite=options.overwrite)
    source = _source(options)
    model, processor = load_image_encoder(options)
    built = RetrievalSet.build(
        model,
        processor,
        source.images,
        embed_images=options.embed_images,
        batch_size=options.batch_size,
        base_dir=source.base_dir,
        source=source.description,
        max_errors=options.max_errors,
        timeout=options.timeout,
        workers=options.workers,
        count=source.num_images,
    )
    built.save(options.out, overwrite=options.overwrite)
    return built


def build_and_print(options: RetrievalSetOptions) -> None:
    """The command `gill index`: build the set and print what is in it."""
    built = build_retrieval_set(options)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{len(built)} images, {built.info.skipped} skipped")
    print(f"for the weights {fingerprint_name(built.info.fingerprint)}")
    print(f"wrote {options.out} ({size / 1e6:.1f} MB)")


def load_image_encoder(options: RetrievalSetOptions) -> tuple[Any, Any]:
    """The model, without its language model where that is in another repository, and its processor."""
    from transformers import AutoModelForCausalLM

    from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor

    given: dict[str, Any] = {}
    config = GillConfig.from_pretrained(options.model)
    if not config.is_self_contained:
        # Images are embedded without the language model, by far the largest part: one without weights will do.
        with torch.device("meta"):
            given["language_model"] = AutoModelForCausalLM.from_config(config.text_config)
    model = GillForConditionalGeneration.from_pretrained(
        options.model, dtype=getattr(torch, options.dtype), trust_remote_code=options.trust_remote_code, **given
    )
    if given:
        model.language_model = None
    # Without an answer in advance, transformers asks on the terminal.
    processor = GillProcessor.from_pretrained(options.model, trust_remote_code=options.trust_remote_code)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device), processor


def folder_source(folder: Path) -> Source:
    """All image files in a folder and its subfolders, in the order of their names, without captions."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{folder} has no image in it, expected files named {' '.join(sorted(IMAGE_SUFFIXES))}")
    images = ((path.absolute(), None) for path in files)
    return Source(images, folder.absolute(), f"folder {folder.name}", len(files))


def urls_source(file: Path) -> Source:
    """A URL or path in each line; empty lines and those that begin with # are left out."""
    lines = [text.strip() for _, text in read_lines(file)]
    urls = [line for line in lines if not line.startswith("#")]
    return Source([(url, None) for url in urls], file.absolute().parent, f"URLs of {file.name}", len(urls))


def tsv_source(
    file: Path, image_column: str | None = None, caption_column: str | None = None, image_root: Path | None = None
) -> Source:
    """A TSV of captions and URLs or paths, see [`~pipeline_gill.caption_files.read_captions`]."""
    root = (image_root or file.parent).absolute()

    def images() -> Iterator[tuple[Any, str]]:
        for row in read_captions(file, image_column=image_column, caption_column=caption_column):
            try:
                yield find_image(root, row.image) if row.image else "", row.caption
            except CaptionFileError as error:
                # One image that several files may be is left out like one that cannot be read.
                yield ImageError(f"Image could not be read: {file}, line {row.line}: {error}"), row.caption

    # Once in advance: a row of the wrong form ends the build at its beginning, not after hours.
    count = sum(1 for _ in read_captions(file, image_column=image_column, caption_column=caption_column))
    return Source(images(), root, f"TSV {file.name}", count)


def dataset_source(name: str, split: str, image_column: str | None, caption_column: str | None) -> Source:
    """A dataset saved by `save_to_disk`, or anything that `datasets.load_dataset` takes."""
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

    return Source(images(), Path.cwd(), f"dataset {name}, split {split}", len(dataset))


def _source(options: RetrievalSetOptions) -> Source:
    if options.folder is not None:
        return folder_source(options.folder)
    if options.urls is not None:
        return urls_source(options.urls)
    if options.tsv is not None:
        return tsv_source(options.tsv, options.image_column, options.caption_column, options.image_root)
    return dataset_source(str(options.dataset), options.split, options.image_column, options.caption_column)


__all__ = ["Source", "build_and_print", "build_retrieval_set", "load_image_encoder"]
