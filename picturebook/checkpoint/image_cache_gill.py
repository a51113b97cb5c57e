"""A cache of the images at URLs."""

import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from PIL import Image

from .image_loading_gill import ImageError, load_image
from .image_sources_gill import IMAGE_SOURCES

# A dead server may come back; until then it is not asked each time.
_FAILURE_LIFETIME_S = 600.0


class _Entry(NamedTuple):
    image: Image.Image | None
    failure: str
    timeout: float
    time: float


class ImageCache:
    """A cache of the most recently used images at URLs, and of failures. Thread-safe.

    Args:
        max_entries (`int`, defaults to 256): Number of URLs.
        max_bytes (`int`, defaults to 256 MiB): Size of the images, at three bytes a pixel.
    """

    def __init__(self, max_entries: int = 256, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._entries: OrderedDict[tuple[str, frozenset[str]], _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, url: str, *, timeout: float, allowed_sources: Collection[str] = IMAGE_SOURCES) -> Image.Image:
        """Load the image at a URL, see [`load_image`], or return a copy of the one that was loaded before.

        A failure is remembered for ten minutes, and returned to callers whose `timeout` is no longer than the one that
        it happened with.

        Raises:
            ImageError: If there is no image.
        """
        key = (url, frozenset(allowed_sources))
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and self._still_holds(entry, timeout):
                self._entries.move_to_end(key)
                if entry.image is None:
                    raise ImageError(entry.failure)
                return entry.image.copy()
        try:
            image = load_image(url, timeout=timeout, allowed_sources=allowed_sources)
        except ImageError as error:
            self._keep(key, _Entry(None, str(error), timeout, time.monotonic()))
            raise
        self._keep(key, _Entry(image.copy(), "", timeout, time.monotonic()))
        return image

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()

    @staticmethod
    def _still_holds(entry: _Entry, timeout: float) -> bool:
        if entry.image is not None:
            return True
        return timeout <= entry.timeout and time.monotonic() - entry.time < _FAILURE_LIFETIME_S

    def _keep(self, key: tuple[str, frozenset[str]], entry: _Entry) -> None:
        if _size(entry) > self._max_bytes:
            return  # it would push out all others and itself
        with self._lock:
            self._entries[key] = entry
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries or sum(map(_size, self._entries.values())) > self._max_bytes:
                self._entries.popitem(last=False)


def _size(entry: _Entry) -> int:
    return 0 if entry.image is None else 3 * entry.image.width * entry.image.height


__all__ = ["ImageCache"]
