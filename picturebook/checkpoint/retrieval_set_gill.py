"""A set of images that GILL can retrieve, with their embeddings and what made them."""

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import HFValidationError

from .fingerprint_gill import fingerprint_name, fingerprints_match

from .hub_push_gill import OneCommit, files_of
from .retrieval_build_gill import dataset_of_embeddings, dataset_of_images
from .retrieval_images_gill import RetrievalImages
from .retrieval_index_gill import ExactIndex, embedding_pieces, read_faiss
from .retrieval_search_gill import RetrievalSearchMixin, RetrievedImage, SkippedImage
from .retrieval_storage_gill import (
    DATA_FOLDER,
    INDEX_FILE,
    RetrievalSetInfo,
    check_columns,
    download_folder,
    read_folder,
    retrieval_set_folder,
    scratch_folder,
    without_indices,
    write_folder,
)
from .retrieval_trust_gill import sign_paths

logger = logging.getLogger(__name__)


class RetrievalSet(RetrievalSearchMixin):
    """Images, their embeddings, and the fingerprint of the weights that made these.

    Make one with [`RetrievalSet.build`] or [`RetrievalSet.from_embeddings`], or read one with [`RetrievalSet.load`].

    Args:
        dataset (`datasets.Dataset`): Columns `image` (`datasets.Image`, None where only the path is known), `path`
            (a URL or file), `caption` (or None) and `embedding` (float32, of length one).
        info (`RetrievalSetInfo`): What the set is and how it was made.
        base_dir (`Path`): The folder that relative paths start from.
        folder (`Path`, *optional*): The folder of a set that was loaded. Files outside of it and URLs that are not
            public are opened only if `info.signature` is this user's.
        allow_outside_files (`bool`, *optional*): Open them in any case, or in none.
        repo_id, revision (`str`, *optional*): The dataset repository of the Hub that the set is from, and its commit.
        scratch (`Path`, *optional*): A folder that the dataset is mapped from, removed together with the set.

    Raises:
        ValueError: columns, counts or lengths are not as described.
    """

    def __init__(
        self,
        dataset: Any,
        info: RetrievalSetInfo,
        *,
        base_dir: Path,
        folder: Path | None = None,
        allow_outside_files: bool | None = None,
        repo_id: str | None = None,
        revision: str | None = None,
        scratch: Path | None = None,
    ) -> None:
        check_columns(dataset)
        dataset = without_indices(dataset)
        self.info = replace(info, count=len(dataset))
        self.dataset = dataset
        self.repo_id, self.revision = repo_id, revision
        self._index = ExactIndex(embedding_pieces(dataset, info.retrieval_dim))
        self._images = RetrievalImages(dataset, info, base_dir, folder, allow_outside_files)
        self._names = dataset.select_columns(["path", "caption"])
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
        max_errors: int | None = None,
        timeout: float = 10.0,
        workers: int = 8,
        progress: bool = True,
        count: int | None = None,
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
            max_errors (`int`, *optional*): Give up when more images than this cannot be read or embedded. They are
                left out, with a warning each.
            timeout (`float`, defaults to 10.0): Seconds to fetch a URL.
            workers (`int`, defaults to 8): Images that are fetched and decoded at once.
            progress (`bool`, defaults to `True`): Show a progress bar.
            count (`int`, *optional*): The number of images, for the progress bar.

        Raises:
            ValueError: no image could be used, or more than `max_errors` could not; an image is neither a file nor a
                URL and `embed_images` is off.
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
                count=count,
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

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        moves_to: str | os.PathLike[str] | None = None,
    ) -> None:
        """Write the set to a folder; a reader finds the old set or the new one, whole, at every instant.

        Images that are files stay where they are. The saved set may open them for this user, and wherever it is
        moved together with them.

        Args:
            folder (`str` or `os.PathLike`): Where to.
            overwrite (`bool`, defaults to `False`): Replace a retrieval set that is there.
            moves_to (`str` or `os.PathLike`, *optional*): Where the folder will be in the end, for relative paths.

        Raises:
            FileExistsError: the folder is not empty, and no retrieval set that may be overwritten.
        """
        base_dir = self._images.base_dir_for(_absolute(moves_to or folder))
        self._write(_absolute(folder), base_dir, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        repo_type: str = "dataset",
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        allow_outside_files: bool | None = None,
    ) -> "RetrievalSet":
        """Open a set from a folder or the Hub. Embeddings and images stay on disk.

        A set that this user did not build on this machine opens only what is embedded, files in its own folder, and
        URLs of the public internet.

        Args:
            name (`str` or `os.PathLike`): A folder, or the id of a repository of the Hub.
            revision, token, cache_dir, force_download, local_files_only: As everywhere in the Hub's libraries.
            subfolder (`str`, *optional*): Where in the folder or repository the set is.
            repo_type (`str`, defaults to `"dataset"`): `"model"` for a set that is part of a model's repository.
            allow_outside_files (`bool`, *optional*):
                Whether the set may open any file and URL that it names. By default sets that this user saved may, and
                no others; `True` for a set whose origin you trust.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a file is damaged, or contradicts another; the message names it.

        Example:

        ```python
        >>> from pipeline_gill import RetrievalSet

        >>> retrieval_set = RetrievalSet.load("picturebook/checkpoint/retrieval_set")
        >>> retrieval_set.open_image(0).mode
        'RGB'
        ```
        """
        path = Path(name).expanduser()
        if path.exists():
            return cls._read(_absolute(path / (subfolder or "")), allow_outside_files=allow_outside_files)
        try:
            return cls.from_hub(
                os.fspath(name),
                revision=revision,
                subfolder=subfolder,
                repo_type=repo_type,
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                allow_outside_files=allow_outside_files,
            )
        except HFValidationError as error:
            raise FileNotFoundError(
                f"{name}: there is no such folder, and it is not the id of a repository of the Hub"
            ) from error

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        subfolder: str | None = None,
        repo_type: str = "dataset",
        allow_outside_files: bool | None = None,
        **hub_options: Any,
    ) -> "RetrievalSet":
        """As [`RetrievalSet.load`], but from the Hub even if there is a folder of this name."""
        folder, commit = download_folder(repo_id, repo_type=repo_type, subfolder=subfolder, **hub_options)
        return cls._read(
            _absolute(folder),
            from_hub=True,
            allow_outside_files=bool(allow_outside_files),
            repo_id=repo_id if repo_type == "dataset" and not subfolder else None,
            revision=commit,
        )

    @classmethod
    def _read(cls, folder: Path, *, from_hub: bool = False, **options: Any) -> "RetrievalSet":
        dataset, info = read_folder(folder)
        index_file = folder / INDEX_FILE
        base_dir = folder if from_hub else Path(os.path.normpath(folder / info.base_dir))
        try:
            loaded = cls(dataset, info, base_dir=base_dir, folder=folder, **options)
            # faiss does not check the files that it reads; a stranger's index is made again from the embeddings.
            if index_file.is_file() and loaded._images.is_own:
                loaded._index.use_faiss(read_faiss(index_file, info.count, info.retrieval_dim))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error
        return loaded

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload retrieval set",
    ) -> str:
        """Upload the set to a dataset repository of the Hub in one commit.

        Args:
            repo_id (`str`): The repository, created if need be; without a namespace, in that of the token's owner.
            private (`bool`, *optional*): Whether a new repository is private; the Hub's default if not given.
            token (`str` or `bool`, *optional*): By default the one that this machine is logged in with.
            revision (`str`, *optional*): Branch to push to, created if need be.

        Returns:
            `str`: The URL of the commit.

        Raises:
            PermissionError: the token is wrong or may not write to the repository.
        """
        with tempfile.TemporaryDirectory(prefix="gill-retrieval-") as scratch:
            folder = Path(scratch) / "set"
            self._write(folder, self._images.base_dir_for(None), overwrite=False)
            local = [path for path in self._images.local_files() if not (folder / path).is_file()]
            if local:
                logger.warning(
                    "%d of %d images are files on this machine, which others cannot open", len(local), len(self)
                )
            with OneCommit(
                files_of(folder),
                repo_id,
                HfApi(token=token),
                repo_type="dataset",
                outdated=(f"{DATA_FOLDER}/*", INDEX_FILE),
                private=private,
                revision=revision,
            ) as push:
                return str(push.commit(commit_message).commit_url)

    def check_fingerprint(self, fingerprint: dict[str, Any]) -> None:
        """Raise `ValueError`, naming both, if the set was made with other weights than those of `fingerprint`."""
        if not fingerprints_match(self.info.fingerprint, fingerprint):
            raise ValueError(
                f"The retrieval set was made with the weights {fingerprint_name(self.info.fingerprint)}, but the model "
                f"has the weights {fingerprint_name(fingerprint)}; build the set again with this model"
            )

    def _write(self, folder: Path, base_dir: str, *, overwrite: bool) -> None:
        # What a stranger's set may not open, a copy of it may not open either.
        signature = sign_paths(base_dir, self._images.paths()) if self._images.is_own else None
        with retrieval_set_folder(folder, overwrite=overwrite) as new:
            write_folder(new, self.dataset, replace(self.info, base_dir=base_dir, signature=signature))
            self._index.write_faiss(new / INDEX_FILE)
            self._images.copy_own_files(new)


def _absolute(path: str | os.PathLike[str] | None) -> Path:
    return Path(os.path.abspath(Path(path or ".").expanduser()))


def _width(dataset: Any) -> int:
    return int(dataset.features["embedding"].length)


__all__ = ["RetrievalSet", "RetrievedImage", "SkippedImage"]
