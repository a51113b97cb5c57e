"""Image-caption pairs from wherever they are, as examples for the collator, unopened.

Images are opened by the collator, in the worker that needs them: a process that only passes over an example (other
processes' shares of a stream, steps that a resumed run skips) does not decode it.
"""

import glob
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from modeling_gill.image_loading_gill import ImageError, load_image
from pipeline_gill.caption_files import TARGET_CAPTION_COLUMN, CaptionFileError, find_image, read_captions

_ROWS_A_CHUNK = 100_000


class DataError(ValueError):
    """Data that cannot be trained on at all; the message says what was found and what was expected."""


class CaptionedImages(Dataset):
    """
    Examples with a known number.

    Args:
        rows: With a length, rows by number; a row is a mapping of columns.
        name (`str`): What to call the data in messages.
        image_column, caption_column (`str`): Of a row.
        image_folder (`str`, *optional*): That relative paths start from.
        target_caption_column (`str`, *optional*): Of a row.
    """

    def __init__(
        self,
        rows: Any,
        name: str,
        image_column: str,
        caption_column: str,
        image_folder: str | None = None,
        target_caption_column: str | None = None,
    ) -> None:
        self.rows, self.name = rows, name
        self.image_column, self.caption_column, self.image_folder = image_column, caption_column, image_folder
        self.target_caption_column = target_caption_column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index`, `name`, `key`, `image`, `caption`, `target_caption` of an example, see the collator."""
        return _example(self, self.rows[int(index)], int(index))

    def captions(self) -> Any:
        """All captions in order, without the images."""
        return self.rows[self.caption_column]

    def target_captions(self) -> Any:
        """For each caption what the image generator is asked for: the caption itself, where nothing else is said."""
        if self.target_caption_column is None:
            return self.captions()
        return (
            target or caption
            for target, caption in zip(self.rows[self.target_caption_column], self.captions(), strict=True)
        )


class CaptionedImageStream(IterableDataset):
    """
    Examples of a stream, shuffled within a buffer; the same order whenever seed and epoch are the same.

    Args:
        rows (`datasets.IterableDataset`): Of mappings.
        name, image_column, caption_column, image_folder, target_caption_column: As for [`CaptionedImages`].
    """

    def __init__(
        self,
        rows: Any,
        name: str,
        image_column: str,
        caption_column: str,
        image_folder: str | None = None,
        target_caption_column: str | None = None,
    ) -> None:
        self.rows, self.name = rows, name
        self.image_column, self.caption_column, self.image_folder = image_column, caption_column, image_folder
        self.target_caption_column = target_caption_column

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, row in enumerate(self.rows):
            yield _example(self, row, index)

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch."""
        self.rows.set_epoch(epoch)


def open_data(
    source: str,
    split: str = "train",
    image_folder: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    streaming: bool = False,
    shuffle_seed: int | None = None,
    shuffle_buffer: int = 10_000,
    target_caption_column: str | None = None,
) -> CaptionedImages | CaptionedImageStream:
    """
    Open data, by what `source` is.

    Args:
        source (`str`): A `.tsv` file, see [`~pipeline_gill.caption_files.read_captions`]; a folder that `datasets`
            saved; any other folder, read as `imagefolder` with captions in its metadata; `.tar` shards of
            webdataset (a pattern or brace-free glob); else a data set of the Hub.
        split (`str`): Of the data set; not of a `.tsv`.
        image_folder (`str`, *optional*): Where the images of a `.tsv` lie; by default beside it.
        image_column, caption_column (`str`, *optional*): By default the first that there is of the usual names.
        streaming (`bool`): Read as a stream; webdataset always is.
        shuffle_seed (`int`, *optional*): Shuffles a stream; data with a known number are shuffled by the Trainer.
        shuffle_buffer (`int`): Examples of a stream that are shuffled among each other.
        target_caption_column (`str`, *optional*): Of captions for the image generator, by default `target_caption`
            where there is one.

    Raises:
        DataError: nothing there, no columns of the kind, a wrong header.
    """
    if source.endswith(".tsv"):
        columns = {
            "image_column": image_column,
            "caption_column": caption_column,
            "target_caption_column": target_caption_column,
        }
        return _open_tsv(Path(source), image_folder, columns, streaming, (shuffle_seed, shuffle_buffer))
    try:
        rows, name = _load(source, split, streaming)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"The data {source!r} (split {split!r}) could not be opened: {_first_line(error)}") from error
    image_column = _column("image", image_column, rows.column_names, ("image", "jpg", "png", "jpeg", "webp"), name)
    caption_column = _column("caption", caption_column, rows.column_names, ("caption", "text", "txt"), name)
    if target_caption_column is not None or TARGET_CAPTION_COLUMN in (rows.column_names or ()):
        usual = (TARGET_CAPTION_COLUMN,)
        target_caption_column = _column("target caption", target_caption_column, rows.column_names, usual, name)
    feature = (rows.features or {}).get(image_column)
    if isinstance(feature, datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    columns = {"image_column": image_column, "caption_column": caption_column}
    columns |= {"target_caption_column": target_caption_column}
    return _wrap(rows, name, columns, image_folder, shuffle_seed, shuffle_buffer)


def load_example_image(example: Mapping[str, Any]) -> Image.Image:
    """
    The image of an example, in RGB.

    Raises:
        ImageError: it cannot be read, or its name may be several files.
    """
    if "problem" in example:
        raise ImageError(example["problem"])
    return load_image(example["image"])


def _load(source: str, split: str, streaming: bool) -> tuple[Any, str]:
    path = Path(source)
    if source.endswith(".tar"):
        shards = sorted(glob.glob(source)) if "://" not in source else [source]
        if not shards:
            raise DataError(f"No file is named {source!r}; expected webdataset shards.")
        return datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True), source
    if (path.is_dir() and (path / "state.json").exists()) or (path / "dataset_dict.json").exists():
        saved = datasets.load_from_disk(source)
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise DataError(f"{source!r} has the splits {sorted(saved)}, not {split!r}.")
            saved = saved[split]
        return saved.to_iterable_dataset() if streaming else saved, source
    if path.is_dir():
        return datasets.load_dataset("imagefolder", data_dir=source, split=split, streaming=streaming), source
    if path.exists():
        raise DataError(f"{source!r} is a file; expected a .tsv, .tar shards, a folder or a data set of the Hub.")
    return datasets.load_dataset(source, split=split, streaming=streaming), source


def _open_tsv(
    path: Path,
    image_folder: str | None,
    columns: dict[str, str | None],
    streaming: bool,
    shuffle: tuple[int | None, int],
) -> CaptionedImages | CaptionedImageStream:
    folder = image_folder if image_folder is not None else str(path.parent)
    if not os.path.isdir(folder):
        raise DataError(f"The image folder {folder!r} of {str(path)!r} is not there.")
    try:
        if streaming:
            first = next(_caption_columns(path, **columns))  # raises for a wrong header before training starts
            names, features = [*first], datasets.Features({name: datasets.Value("string") for name in first})
            rows: Any = datasets.IterableDataset.from_generator(
                _caption_columns, features=features, gen_kwargs={"path": path, **columns}
            )
        else:
            rows = _caption_table(_caption_columns(path, **columns))
            names = rows.column_names
    except (OSError, CaptionFileError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {_first_line(error)}") from error
    columns = {"image_column": "image", "caption_column": "caption"}
    columns |= {"target_caption_column": TARGET_CAPTION_COLUMN if TARGET_CAPTION_COLUMN in names else None}
    return _wrap(rows, str(path), columns, folder, *shuffle)


def _caption_columns(path: Path, **columns: str | None) -> Iterator[dict[str, str]]:
    for row in read_captions(path, **columns):
        own = {"caption": row.caption, "image": row.image}
        yield own if row.target_caption is None else {**own, TARGET_CAPTION_COLUMN: row.target_caption}


def _caption_table(rows: Iterator[dict[str, str]]) -> datasets.Dataset:
    """Rows in memory as Arrow holds them, which worker processes share, in contrast to Python's lists."""
    chunks = []
    while chunk := list(islice(rows, _ROWS_A_CHUNK)):
        chunks.append(pyarrow.Table.from_pylist(chunk))
    return datasets.Dataset(pyarrow.concat_tables(chunks))


def _wrap(
    rows: Any,
    name: str,
    columns: dict[str, Any],
    image_folder: str | None,
    shuffle_seed: int | None,
    shuffle_buffer: int,
) -> CaptionedImages | CaptionedImageStream:
    if isinstance(rows, datasets.IterableDataset):
        if shuffle_seed is not None:
            rows = rows.shuffle(seed=shuffle_seed, buffer_size=shuffle_buffer)
        return CaptionedImageStream(rows, name, **columns, image_folder=image_folder)
    if not len(rows):
        raise DataError(f"{name!r} holds no examples.")
    return CaptionedImages(rows, name, **columns, image_folder=image_folder)


def _example(data: CaptionedImages | CaptionedImageStream, row: dict[str, Any], index: int) -> dict[str, Any]:
    image, caption = row[data.image_column], row[data.caption_column]
    if isinstance(caption, bytes):
        caption = caption.decode("utf-8", errors="replace")
    target = None if data.target_caption_column is None else row[data.target_caption_column]
    place = image.get("path") if isinstance(image, dict) else image if isinstance(image, str) else None
    place = place or row.get("__key__") or str(index)
    problem = {}
    if isinstance(image, str) and data.image_folder is not None:
        try:
            image = find_image(data.image_folder, image)
        except CaptionFileError as error:
            problem["problem"] = str(error)
    return {
        "index": index,
        "name": f"{data.name}, example {index} ({place})",
        # With the caption, so that a data set in another order is noticed rather than misread.
        "key": f"{os.path.basename(str(place)) if isinstance(row[data.image_column], dict) else place}\n{caption}",
        "image": image,
        "caption": caption,
        "target_caption": target or caption,
        **problem,
    }


def _column(what: str, chosen: str | None, present: Any, usual: tuple[str, ...], name: str) -> str:
    if present is None:
        return chosen or usual[0]
    for candidate in (chosen,) if chosen else usual:
        if candidate in present:
            return str(candidate)
    wanted = repr(chosen) if chosen else f"any of {usual}"
    raise DataError(f"{name!r} has the columns {sorted(present)}, not {wanted} for the {what}; name it.")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


__all__ = ["CaptionedImageStream", "CaptionedImages", "DataError", "load_example_image", "open_data"]
