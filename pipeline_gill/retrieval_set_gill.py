"""A set of images that GILL can retrieve, with their embeddings and what made them."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from modeling_gill.fingerprint_gill import fingerprint_name, fingerprints_match
from modeling_gill.image_loading_gill import ImageError, is_url, load_image

from .image_cache_gill import ImageCache
from .retrieval_build_gill import dataset_of_embeddings, dataset_of_images
from .retrieval_index_gill import ExactIndex, embedding_pieces, faiss_is_installed, read_faiss
from .retrieval_storage_gill import (
    INDEX_FILE,
    RetrievalSetInfo,
    find_folder,
    push_folder,
    read_folder,
    require_datasets,
    scratch_folder,
    whole_folder,
    write_folder,
)

logger = logging.getLogger(__name__)

_COLUMNS = ("image", "path", "caption", "embedding")
# Shared by all sets of the process: different sets often name the same URLs.
_opened_urls = ImageCache()


@dataclass(frozen=True)
class SkippedImage:
    """An image that was nearer but could not be opened, and why."""

    index: int
    path: str | None
    reason: str


@dataclass(frozen=True)
class RetrievedImage:
    """An image found: `image` (mode RGB), its `index` in the set, `path` (where it came from, None if unknown),
    `caption`, `cosine` with the query, and the nearer ones `skipped` because they could not be opened."""

    image: Image.Image
    index: int
    path: str | None
    caption: str | None
    cosine: float
    skipped: tuple[SkippedImage, ...] = ()


class RetrievalSet:
    """Images, their embeddings, and the fingerprint of the weights that made these.

    Make one with [`RetrievalSet.build`] or [`RetrievalSet.from_embeddings`], or read one with [`RetrievalSet.load`].

    Args:
        dataset (`datasets.Dataset`): Columns `image` (`datasets.Image`, None where only the path is known), `path`
            (a URL or file), `caption` (or None) and `embedding` (float32 `(p,)`, of length one).
        info (`RetrievalSetInfo`): What the set is and how it came to be.
        base_dir (`Path`): Where relative paths start from.
        confined (`bool`): Refuse files outside `base_dir`, for sets that come from strangers.
        faiss_index: A `faiss.IndexFlatIP` of the embeddings, if there is one.
        scratch (`Path`, *optional*): A folder that the data set is mapped from, removed when the set is no more.

    Raises:
        ValueError: If columns, counts or lengths are not as described.
    """

    def __init__(
        self,
        dataset: Any,
        info: RetrievalSetInfo,
        *,
        base_dir: Path,
        confined: bool = False,
        faiss_index: Any = None,
        scratch: Path | None = None,
    ) -> None:
        library = require_datasets()
        missing = [name for name in _COLUMNS if name not in dataset.column_names]
        if missing:
            raise ValueError(
                f"the data set has the columns {dataset.column_names}, expected {list(_COLUMNS)} among them"
            )
        if dataset._indices is not None:
            dataset = dataset.flatten_indices()
        self.info = replace(info, count=len(dataset))
        self.dataset = dataset
        self._index = ExactIndex(embedding_pieces(dataset, info.retrieval_dim), faiss_index)
        # Images are decoded by load_image, which has limits and never returns half an image.
        undecoded = dataset.select_columns(["image", "path", "caption"])
        self._rows = undecoded.cast_column("image", library.Image(decode=False))
        self._names = dataset.select_columns(["path", "caption"])
        self._base_dir, self._confined = base_dir, confined
        if scratch is not None:
            weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)

    def __len__(self) -> int:
        return self.info.count

    def __repr__(self) -> str:
        name = fingerprint_name(self.info.fingerprint)
        return f"RetrievalSet({len(self)} images, retrieval_dim={self.info.retrieval_dim}, fingerprint={name})"

    # --- making and keeping ------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        model: Any,
        processor: Any,
        images: Iterable[tuple[Any, str | None]],
        *,
        embed_images: bool = True,
        batch_size: int = 32,
        base_dir: str | os.PathLike[str] | None = None,
        source: str = "",
        max_errors: int | None = 1000,
        timeout: float = 10.0,
        workers: int = 8,
        progress: bool = True,
    ) -> "RetrievalSet":
        """Embed images with a model.

        Args:
            model (`GillForConditionalGeneration`): Gives the embeddings and the fingerprint.
            processor (`GillProcessor`): Its `image_processor` prepares the images.
            images (`Iterable[tuple[Any, str | None]]`): Pairs of what [`load_image`] opens and a caption or None.
                Read as it goes; memory holds a batch.
            embed_images (`bool`): Keep the images themselves in the set, files as they are and others as PNG, or
                only say where they are.
            batch_size (`int`): Images that the model is given at once.
            base_dir (`str` or `Path`, *optional*): Where relative paths start from; the current folder by default.
            source (`str`): Where the images came from, in words.
            max_errors (`int`, *optional*): How many unreadable images to leave out before giving up; None for any
                number. Each is logged as a warning.
            timeout (`float`): Seconds that fetching one URL may take.
            workers (`int`): Images fetched and decoded at a time.
            progress (`bool`): Show a progress bar.

        Raises:
            ValueError: If no image or too many could not be read; if an image is neither a file nor a URL and
                `embed_images` is off; if the model gives a zero or NaN embedding.
        """
        folder = _absolute(base_dir)
        with scratch_folder() as scratch:
            built = dataset_of_images(
                model,
                processor,
                images,
                scratch,
                base_dir=folder,
                keep_images=embed_images,
                batch_size=batch_size,
                max_errors=max_errors,
                timeout=timeout,
                workers=workers,
                progress=progress,
            )
            info = RetrievalSetInfo(
                _width(built.dataset), len(built.dataset), dict(model.retrieval_fingerprint()), source, built.skipped
            )
            return cls(built.dataset, info, base_dir=folder, scratch=scratch)

    @classmethod
    def from_embeddings(
        cls,
        paths: Sequence[str],
        embeddings: Any,
        fingerprint: dict[str, Any],
        *,
        captions: Sequence[str | None] | None = None,
        base_dir: str | os.PathLike[str] | None = None,
        source: str = "",
    ) -> "RetrievalSet":
        """Take embeddings made elsewhere, such as the original authors' `cc3m*.npy`.

        Args:
            paths (`Sequence[str]`): URLs, or files relative to `base_dir`.
            embeddings: As many vectors of one length p: an array or tensor `(n, p)`, or a list of arrays or tensors
                `(p,)`. They need not be of length one.
            fingerprint (`dict`): Of the weights that made them.
            captions, base_dir, source: As for [`RetrievalSet.build`].

        Raises:
            ValueError: If numbers or lengths differ, or a vector is zero, NaN or infinite; names the first few.
        """
        with scratch_folder() as scratch:
            built = dataset_of_embeddings(paths, embeddings, captions, scratch)
            info = RetrievalSetInfo(_width(built.dataset), len(built.dataset), dict(fingerprint), source)
            return cls(built.dataset, info, base_dir=_absolute(base_dir), scratch=scratch)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the set to a folder, whole or not at all.

        Raises:
            FileExistsError: If the folder exists and is not empty, unless it is a retrieval set and `overwrite` is on.
        """
        place = _absolute(folder)
        base_dir = "."
        if self._count_local_files():
            with contextlib.suppress(ValueError):  # another drive
                base_dir = Path(os.path.relpath(self._base_dir, place)).as_posix()
        self._write(place, base_dir, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "RetrievalSet":
        """Open a set from a folder or a data set repository on the Hub. Embeddings and images stay on disk.

        From the Hub, only images that are embedded, at URLs, or in the repository are opened.

        Raises:
            FileNotFoundError: If the folder or one of its files is missing.
            ValueError: If a file is damaged, or contradicts another; the message names it.
        """
        folder, from_hub = find_folder(
            name,
            revision=revision,
            subfolder=subfolder,
            token=token,
            local_files_only=local_files_only,
            with_index=faiss_is_installed(),
        )
        folder = _absolute(folder)
        dataset, info = read_folder(folder)
        index_file = folder / INDEX_FILE
        faiss_index = read_faiss(index_file, info.count, info.retrieval_dim) if index_file.is_file() else None
        base_dir = folder if from_hub else Path(os.path.normpath(folder / info.base_dir))
        try:
            return cls(dataset, info, base_dir=base_dir, confined=from_hub, faiss_index=faiss_index)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload retrieval set",
    ) -> str:
        """Upload the set to a data set repository on the Hub, created if need be, as one commit.

        Returns:
            `str`: The URL of the commit.
        """
        local = self._count_local_files()
        if local:
            logger.warning("%d of %d images are files on this machine, which others cannot open", local, len(self))
        with tempfile.TemporaryDirectory(prefix="gill-retrieval-") as scratch:
            folder = Path(scratch) / "set"
            self._write(folder, ".", overwrite=False)
            return push_folder(
                folder, repo_id, private=private, token=token, revision=revision, commit_message=commit_message
            )

    # --- searching ---------------------------------------------------------------------------------------------------

    def check_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Raise `ValueError`, naming both, if the set was made with other weights than those of `fingerprint`."""
        if not fingerprints_match(self.info.fingerprint, fingerprint):
            raise ValueError(
                f"the retrieval set was made with the weights {fingerprint_name(self.info.fingerprint)}, but the model "
                f"has the weights {fingerprint_name(fingerprint)}; build the set again with this model"
            )

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the `k` nearest images, exactly; equal ones in the order of their index.

        Args:
            query (`torch.Tensor` of shape `(n, p)`): Floating point, of any length but nought.
            k (`int`): How many; no more come than there are.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Cosines, float32 `(n, k)`, and indices, int64 `(n, k)`, best first.

        Raises:
            ValueError: If `query` has another shape or a row without a direction, or `k` is below 1.
        """
        return self._index.search(query, k)

    def candidates(
        self, query: torch.Tensor, *, exclude: Collection[int] = (), limit: int | None = None
    ) -> Iterator[tuple[int, float]]:
        """Yield (index, cosine) for a query `(p,)`, best first, without `exclude`, `limit` at most."""
        given = 0
        for index, cosine in self._index.best_first(query):
            if limit is not None and given >= limit:
                return
            if index not in exclude:
                given += 1
                yield index, cosine

    def open_image(self, index: int, *, timeout: float = 10.0) -> Image.Image:
        """Open an image (mode RGB): the embedded one, else from its path. A URL is not fetched again for a while.

        Raises:
            IndexError: If there is no such index. ImageError: If the image cannot be opened within `timeout`
            seconds.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index}, expected 0 to {len(self) - 1}")
        row = self._rows[index]
        path = row["path"]
        if row["image"] is not None and row["image"]["bytes"] is not None:
            return load_image({"bytes": row["image"]["bytes"], "path": path})
        if not path:
            raise ImageError(f"Image could not be read: image {index} is neither embedded nor has it a path")
        if is_url(path):
            return _opened_urls.load(path, timeout=timeout)
        return load_image(self._file(path), timeout=timeout)

    def retrieve(
        self,
        query: torch.Tensor,
        *,
        exclude: Collection[int] = (),
        deadline_s: float = 30.0,
        max_attempts: int = 10,
        image_timeout: float = 5.0,
    ) -> RetrievedImage | None:
        """Open the nearest image; one that cannot be opened gives way to the next, with a warning in the log.

        Args:
            query (`torch.Tensor` of shape `(p,)`): Floating point, of any length but nought.
            exclude (`Collection[int]`): Indices not to come, those shown already for instance.
            deadline_s (`float`): Seconds that all of it may take.
            max_attempts (`int`): Images to try.
            image_timeout (`float`): Seconds that one URL may take.

        Returns:
            `RetrievedImage`, or None if none could be opened.
        """
        end = time.monotonic() + deadline_s
        skipped: list[SkippedImage] = []
        for index, cosine in self.candidates(query, exclude=exclude, limit=max_attempts):
            left = end - time.monotonic()
            if left <= 0:
                break
            row = self._names[index]
            try:
                image = self.open_image(index, timeout=min(image_timeout, left))
            except ImageError as error:
                logger.warning("Image %d gives way to the next best: %s", index, error)
                skipped.append(SkippedImage(index, row["path"], str(error)))
                continue
            return RetrievedImage(image, index, row["path"], row["caption"], cosine, tuple(skipped))
        logger.warning("No image could be retrieved: %d tried within %g s", len(skipped), deadline_s)
        return None

    # --- files -------------------------------------------------------------------------------------------------------

    def _write(self, folder: Path, base_dir: str, *, overwrite: bool) -> None:
        with whole_folder(folder, overwrite=overwrite) as partial:
            write_folder(partial, self.dataset, replace(self.info, base_dir=base_dir))
            self._index.write_faiss(partial / INDEX_FILE)

    def _count_local_files(self) -> int:
        """How many images are files that others than this machine have not."""
        columns = self.dataset.data
        paths, not_embedded = columns.column("path").to_pylist(), columns.column("image").is_null().to_pylist()
        return sum(outside and not is_url(path or "") for path, outside in zip(paths, not_embedded, strict=True))

    def _file(self, path: str) -> Path:
        place = Path(os.path.normpath(self._base_dir / path))
        if self._confined and not place.is_relative_to(self._base_dir):
            raise ImageError(f"Image could not be read: {path!r}: it is outside the retrieval set's own folder")
        return place


def _absolute(path: str | os.PathLike[str] | None) -> Path:
    return Path(os.path.abspath(Path(path or ".").expanduser()))


def _width(dataset: Any) -> int:
    return int(dataset.features["embedding"].length)


__all__ = ["RetrievalSet", "RetrievedImage", "SkippedImage"]
