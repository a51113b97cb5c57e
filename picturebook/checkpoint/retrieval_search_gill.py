"""What a retrieval set is asked for: the nearest images, and the first of them that can be opened."""

import logging
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .image_loading_gill import ImageError

from .retrieval_images_gill import RetrievalImages
from .retrieval_index_gill import ExactIndex
from .retrieval_storage_gill import RetrievalSetInfo

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SkippedImage:
    """A nearer image that could not be opened.

    Args:
        index (`int`): Its row in the set.
        path (`str`, *optional*): The URL or file that it is at.
        reason (`str`): Why it could not be opened.
    """

    index: int
    path: str | None
    reason: str


@dataclass(frozen=True)
class RetrievedImage:
    """The nearest image that could be opened.

    Args:
        image (`PIL.Image.Image`): In mode RGB.
        index (`int`): Its row in the set.
        path (`str`, *optional*): The URL or file that it came from.
        caption (`str`, *optional*): Its caption.
        cosine (`float`): Cosine of the angle between its embedding and the query.
        skipped (`tuple[SkippedImage]`): Nearer images that could not be opened.
    """

    image: Image.Image
    index: int
    path: str | None
    caption: str | None
    cosine: float
    skipped: tuple[SkippedImage, ...] = ()


class RetrievalSearchMixin:
    """How [`RetrievalSet`] is searched."""

    _index: ExactIndex
    _images: RetrievalImages
    _names: Any
    info: RetrievalSetInfo

    def search(self, query: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the `k` nearest images, exactly; equal ones in the order of their index.

        Args:
            query (`torch.Tensor` of shape `(n, p)`): Floating point, non-zero, normalized internally.
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
        """Open an image (mode RGB): the embedded one, else from its path. Images at URLs are cached.

        Args:
            index (`int`): Its row.
            timeout (`float`, defaults to 10.0): Seconds to fetch a URL.

        Raises:
            IndexError: there is no such row.
            ImageError: the image cannot be opened, or the set may not open it.
        """
        if not 0 <= index < self.info.count:
            raise IndexError(f"index {index}, expected 0 to {self.info.count - 1}")
        return self._images.open(index, timeout=timeout)

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
            query (`torch.Tensor` of shape `(p,)`): Floating point, non-zero, normalized internally.
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


__all__ = ["RetrievalSearchMixin", "RetrievedImage", "SkippedImage"]
