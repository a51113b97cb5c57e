"""Turn images, or embeddings made elsewhere, into the dataset of a retrieval set."""

import contextlib
import io
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from .image_loading_gill import ImageError, load_image_and_file
from .image_preprocessing_gill import preprocess_images
from .image_sources_gill import describe_source, is_url
from .prompt_gill import check_text

from .retrieval_storage_gill import require_datasets

try:
    import pyarrow as pa
except ImportError:  # it comes with datasets
    pa = None

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 10_000
_BAD_ROWS_NAMED = 5


class BuiltData(NamedTuple):
    """A dataset (image, path, caption, embedding), and the number of images that were left out of it."""

    dataset: Any
    skipped: int


class _Loaded(NamedTuple):
    prepared: dict[str, Any]
    image: dict[str, Any] | None
    path: str | None
    caption: str | None


def dataset_of_images(
    model: Any,
    processor: Any,
    images: Iterable[tuple[Any, str | None]],
    scratch: Path,
    *,
    base_dir: Path,
    keep_images: bool,
    batch_size: int,
    max_errors: int | None,
    timeout: float,
    workers: int,
    progress: bool,
    count: int | None,
) -> BuiltData:
    """Embed images, reading and writing a batch at a time, into a dataset memory-mapped from `scratch`.

    Arguments and errors are those of `RetrievalSet.build`.
    """

    def load(entry: tuple[Any, str | None]) -> _Loaded | ImageError:
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise ValueError(f"`images` holds {entry!r:.80}; expected pairs of an image and its caption or None")
        source, caption = entry
        if isinstance(source, ImageError):
            return source
        if caption is not None and not isinstance(caption, str):  # the NaN that pandas has for nothing
            raise ValueError(f"the caption of {describe_source(source)} is {caption!r:.80}, expected a string or None")
        try:
            _checked_text(caption, "its caption")
            path = _checked_text(_stored_path(source, base_dir), "its name")
            can_be_opened_again = keep_images or _can_be_opened_again(source, path, base_dir)
        except (OSError, RuntimeError, ValueError) as error:  # a name that no file can have
            return ImageError(f"Image could not be read: {describe_source(source)}: {error}")
        if not can_be_opened_again:
            raise ValueError(
                f"{describe_source(source)} cannot be opened again, expected a file or URL; embed the images"
            )
        if isinstance(source, Mapping) and source.get("bytes") is None:
            source = source.get("path")
        # A relative path starts from base_dir here as it will when the set is used.
        place = base_dir / path if path and not is_url(path) and isinstance(source, str | os.PathLike) else source
        try:
            image, file = load_image_and_file(place, timeout=timeout)
        except ImageError as error:
            return error
        stored = {"bytes": file or _png(image), "path": None} if keep_images else None
        # In this thread, so that no more than `workers` decoded images are in memory.
        try:
            prepared = preprocess_images(processor.image_processor, [image])
        except Exception as error:  # image processors raise all kinds of errors for an image of one pixel by thousands
            return ImageError(f"Image could not be processed: {describe_source(source)}: {error}")
        return _Loaded(prepared, stored, path, caption)

    errors = 0

    def batches() -> Iterator[dict[str, Any]]:
        nonlocal errors
        total = len(images) if count is None and isinstance(images, Sequence) else count
        entries = iter(images)
        with (
            ThreadPoolExecutor(workers, thread_name_prefix="gill-images") as pool,
            tqdm(total=total, unit="image", disable=not progress, desc="Embedding") as bar,
        ):
            while batch := list(islice(entries, batch_size)):
                results = list(pool.map(load, batch))
                loaded = [result for result in results if not isinstance(result, ImageError)]
                embedded, without_direction = _embed(model, loaded) if loaded else (None, [])
                for error in (*(result for result in results if isinstance(result, ImageError)), *without_direction):
                    errors += 1
                    logger.warning("Left out: %s", error)
                    if max_errors is not None and errors > max_errors:
                        raise ValueError(
                            f"More than {max_errors} images (`max_errors`) could not be used; the last: {error}"
                        )
                bar.update(len(batch))
                if embedded is not None:
                    yield embedded

    with _evaluating(model):
        dataset = _write(batches(), scratch / "images.arrow")
    if dataset is None:
        raise ValueError(f"there is no image to retrieve: {errors} could not be used, and no other was given")
    return BuiltData(dataset, errors)


def dataset_of_embeddings(
    paths: Sequence[str], embeddings: Any, captions: Sequence[str | None] | None, scratch: Path
) -> BuiltData:
    """Make a dataset of embeddings made elsewhere; arguments and errors as in `RetrievalSet.from_embeddings`."""
    for name, several in (("paths", paths), ("captions", captions)):
        if isinstance(several, str | bytes):
            raise ValueError(f"`{name}` is {several!r:.80}, expected a list")
    for name, values in (("embeddings", embeddings), ("captions", captions)):
        if values is not None and len(values) != len(paths):
            raise ValueError(f"there are {len(paths)} paths and {len(values)} {name}, expected as many")
    if not len(paths):
        raise ValueError("there are no paths, expected at least one image")
    width = _vectors(embeddings[:1], 0).shape[1]

    def batches() -> Iterator[dict[str, Any]]:
        for start in range(0, len(paths), _ROWS_AT_ONCE):
            chosen = slice(start, start + _ROWS_AT_ONCE)
            rows = range(start, start + len(paths[chosen]))
            names = [_checked_path(path, f"path {row}") for row, path in zip(rows, paths[chosen], strict=True)]
            vectors = _vectors(embeddings[chosen], start)
            if vectors.shape[1] != width:
                raise ValueError(f"embeddings have lengths {width} and {vectors.shape[1]}, expected one length")
            units, usable = _unit(vectors)
            if not usable.all():
                bad = np.flatnonzero(~usable)[:_BAD_ROWS_NAMED]
                named = ", ".join(f"{start + row} ({names[row]!r})" for row in bad)
                raise ValueError(f"embeddings are zero, NaN or infinite, expected vectors with a direction: {named}")
            nothing: list[str | None] = [None] * len(names)
            texts = nothing
            if captions is not None:
                pairs = zip(rows, captions[chosen], strict=True)
                texts = [_checked_text(text, f"caption {row}") for row, text in pairs]
            yield {
                "image": nothing,
                "path": names,
                "caption": texts,
                "embedding": units,
            }

    dataset = _write(batches(), scratch / "embeddings.arrow")
    return BuiltData(dataset, 0)


def _embed(model: Any, loaded: list[_Loaded]) -> tuple[dict[str, Any] | None, list[ImageError]]:
    """Embed a batch; returns its rows, if any, and an error for each image whose embedding has no direction."""
    batch = {name: torch.cat([entry.prepared[name] for entry in loaded]) for name in loaded[0].prepared}
    with torch.inference_mode():
        embeddings = model.get_image_retrieval_embeddings(**batch)
    if embeddings.ndim != 2 or len(embeddings) != len(loaded):
        raise ValueError(f"the model embeds {len(loaded)} images as {tuple(embeddings.shape)}, expected (n, p)")
    units, usable = _unit(embeddings.float().cpu().numpy())
    errors = [
        ImageError(f"The model's embedding is zero, NaN or infinite: {entry.path or 'an image'}")
        for entry, is_usable in zip(loaded, usable, strict=True)
        if not is_usable
    ]
    kept = [entry for entry, is_usable in zip(loaded, usable, strict=True) if is_usable]
    if not kept:
        return None, errors
    rows = {
        "image": [entry.image for entry in kept],
        "path": [entry.path for entry in kept],
        "caption": [entry.caption for entry in kept],
        "embedding": units[usable],
    }
    return rows, errors


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _stored_path(source: Any, base_dir: Path) -> str | None:
    """The URL or path to store in the set; paths are relative to `base_dir` if they can be."""
    if isinstance(source, Mapping):
        source = source.get("path")
    if isinstance(source, str):
        if is_url(source):
            return source.strip()
        if source.strip()[:5].lower() == "data:" or "://" in source:
            return None
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(os.fsdecode(source)).expanduser()
    # Relative, so that the set names no folders of this machine and can be moved together with its images.
    return path.relative_to(base_dir).as_posix() if path.is_relative_to(base_dir) else path.as_posix()


def _can_be_opened_again(source: Any, path: str | None, base_dir: Path) -> bool:
    if path is None:
        return False
    # A row of a dataset may have both an image and the name of a file that is not on this machine.
    has_bytes = isinstance(source, Mapping) and source.get("bytes") is not None
    return not has_bytes or is_url(path) or (base_dir / path).is_file()


def _checked_path(path: Any, where: str) -> str:
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise ValueError(f"{where} is {path!r:.80}, expected a URL or the name of a file")
    return _checked_text(os.fsdecode(path), where) or ""


def _checked_text(text: Any, where: str) -> str | None:
    """A string of valid Unicode, or None."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError(f"{where} is {text!r:.80}, expected a string or None")
    return str(check_text(text, where))


def _vectors(rows: Any, start: int) -> np.ndarray:
    """float32 `(n, p)` of an array, a tensor, or a list of arrays or tensors as the pickles of GILL hold."""
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().float().cpu().numpy()
    elif not isinstance(rows, np.ndarray):
        rows = [row.detach().float().cpu().numpy() if isinstance(row, torch.Tensor) else row for row in rows]
    if any(np.iscomplexobj(row) for row in rows):
        raise ValueError(f"embeddings from row {start} on are complex, expected real numbers")
    try:
        vectors = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The embeddings from row {start} on are no vectors of one length ({error}); expected the shape (p,)."
        ) from error
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise ValueError(f"embeddings from row {start} on have shape {vectors.shape}, expected (n, p)")
    return vectors


def _unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(n, p)` scaled to length one, float32, and whether each has a direction."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    return (wide / np.where(usable, lengths, 1)[:, None]).astype(np.float32), usable


def _write(batches: Iterator[dict[str, Any]], path: Path) -> Any:
    """Write batches to an Arrow file and open it memory-mapped; None for no batch."""
    library = require_datasets()
    first = next(batches, None)
    if first is None:
        return None
    width = first["embedding"].shape[1]
    numbers = library.Sequence(library.Value("float32"), length=width)
    text = library.Value("string")
    schema = library.Features(image=library.Image(), path=text, caption=text, embedding=numbers).arrow_schema
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in chain([first], batches):
            flat = pa.array(np.ascontiguousarray(batch["embedding"]).reshape(-1))
            columns = [pa.array(batch[name], schema.field(name).type) for name in ("image", "path", "caption")]
            columns.append(pa.FixedSizeListArray.from_arrays(flat, width).cast(schema.field("embedding").type))
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return library.Dataset.from_file(str(path))


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switch dropout off."""
    was_training = bool(getattr(model, "training", False))
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


__all__ = ["BuiltData", "dataset_of_embeddings", "dataset_of_images"]
