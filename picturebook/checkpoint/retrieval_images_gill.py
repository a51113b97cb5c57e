"""Open the images of a retrieval set: embedded ones, files and URLs, as far as the set may."""

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from .image_loading_gill import ImageError, load_image
from .image_sources_gill import is_url

from .image_cache_gill import ImageCache
from .retrieval_storage_gill import RetrievalSetInfo, require_datasets
from .retrieval_trust_gill import is_signed, lies_within

# Shared by all sets of the process: different sets often name the same URLs.
url_cache = ImageCache()


class RetrievalImages:
    """The images of a retrieval set.

    Args:
        dataset (`datasets.Dataset`): With the columns `image` and `path`.
        info (`RetrievalSetInfo`): With the signature of the set.
        base_dir (`Path`): The folder that relative paths start from.
        folder (`Path`, *optional*): The folder of the set; `None` for one that was made in this process.
        allow_outside_files (`bool`, *optional*): Whether any file and URL may be opened; by default, if the set was
            made in this process or signed by this user. See [`~pipeline_gill.retrieval_trust_gill`].
    """

    def __init__(
        self,
        dataset: Any,
        info: RetrievalSetInfo,
        base_dir: Path,
        folder: Path | None = None,
        allow_outside_files: bool | None = None,
    ) -> None:
        self._info, self._table, self._base_dir, self._folder = info, dataset.data, base_dir, folder
        self._allow_outside_files = allow_outside_files
        # Images are decoded by load_image, which has limits and never returns half an image.
        undecoded = dataset.select_columns(["image", "path"])
        self._rows = undecoded.cast_column("image", require_datasets().Image(decode=False))

    def open(self, index: int, *, timeout: float) -> Image.Image:
        """Open the image of a row, in mode RGB; see [`RetrievalSet.open_image`]."""
        row = self._rows[index]
        path = row["path"]
        if row["image"] is not None and row["image"]["bytes"] is not None:
            return load_image({"bytes": row["image"]["bytes"], "path": path})
        if not path:
            raise ImageError(f"Image could not be read: image {index} is neither embedded nor has it a path")
        if is_url(path):
            allowed = ("url", "public_url") if self.is_own else ("public_url",)
            return url_cache.load(path, timeout=timeout, allowed_sources=allowed)
        return load_image(self._file(path), timeout=timeout, allowed_sources=("file",))

    @cached_property
    def is_own(self) -> bool:
        """Whether the set may open any file and URL."""
        if self._folder is None:
            return True
        if self._allow_outside_files is not None:
            return self._allow_outside_files
        return is_signed(self._info.signature, self._info.base_dir, self.paths())

    def paths(self) -> list[str | None]:
        """The column `path`."""
        return self._table.column("path").to_pylist()

    def local_files(self) -> list[str]:
        """The paths of images that are files and not embedded."""
        not_embedded = self._table.column("image").is_null().to_pylist()
        return [
            path or ""
            for path, apart in zip(self.paths(), not_embedded, strict=True)
            if apart and not is_url(path or "")
        ]

    def base_dir_for(self, folder: Path | None) -> str:
        """The `base_dir` of a copy of the set in `folder`, or of one that leaves this machine (`None`)."""
        if not self.local_files():
            return "."
        if self._folder is not None and self._base_dir.is_relative_to(self._folder):
            return self._base_dir.relative_to(self._folder).as_posix()
        if folder is None:
            return "."
        try:
            return Path(os.path.relpath(self._base_dir, folder)).as_posix()
        except ValueError:  # on another drive
            return "."

    def copy_own_files(self, folder: Path) -> None:
        """Copy images that are files in the folder of the set to the same place in another folder."""
        if self._folder is None or not self._base_dir.is_relative_to(self._folder):
            return
        for path in self.local_files():
            place = Path(os.path.normpath(self._base_dir / path))
            if place.is_relative_to(self._folder) and place.is_file() and lies_within(place, self._folder):
                copy = folder / place.relative_to(self._folder)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place, copy)

    def _file(self, path: str) -> Path:
        try:
            place = Path(os.path.normpath(self._base_dir / path))
            if self._folder is None or lies_within(place, self._folder) or self.is_own:
                return place
        except ValueError as error:
            raise ImageError(f"Image could not be read: {path!r:.200}: no file has such a name") from error
        raise ImageError(
            f"Image could not be read: {path!r:.200}: it is outside the retrieval set's own folder, and you have not "
            "built this set here; `RetrievalSet.load(..., allow_outside_files=True)` opens it if you trust its origin"
        )


__all__ = ["RetrievalImages"]
