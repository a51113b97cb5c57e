"""Remember what URLs led to, so that no URL is fetched twice while it is remembered."""

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from PIL import Image

from modeling_gill.image_loading_gill import ImageError, load_image

# A dead server may come back; until then it is not asked each time.
_FAILURE_LIFETIME_S = 600.0


class _Entry(NamedTuple):
    image: Image.Image | None
    failure: str
    timeout: float
    time: float


class ImageCache:
    """The images and failures of the URLs asked for last. Safe to share between threads.

    Args:
        max_entries (`int`): URLs remembered.
        max_bytes (`int`): Bytes that the remembered images may take, three a pixel.
    """

    def __init__(self, max_entries: int = 256, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, url: str, *, timeout: float) -> Image.Image:
        """The image at a URL as [`load_image`] gives it, a copy of one's own.

        A failure is remembered for ten minutes, and only for those who would wait no longer than the one who met it.

        Raises:
            ImageError: If there is none.
        """
        with self._lock:
            entry = self._entries.get(url)
            if entry is not None and self._still_holds(entry, timeout):
                self._entries.move_to_end(url)
                if entry.image is None:
                    raise ImageError(entry.failure)
                return entry.image.copy()
        try:
            image = load_image(url, timeout=timeout)
        except ImageError as error:
            self._keep(url, _Entry(None, str(error), timeout, time.monotonic()))
            raise
        self._keep(url, _Entry(image.copy(), "", timeout, time.monotonic()))
        return image

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    @staticmethod
    def _still_holds(entry: _Entry, timeout: float) -> bool:
        if entry.image is not None:
            return True
        return timeout <= entry.timeout and time.monotonic() - entry.time < _FAILURE_LIFETIME_S

    def _keep(self, url: str, entry: _Entry) -> None:
        if _size(entry) > self._max_bytes:
            return  # it would push out all others and itself
        with self._lock:
            self._entries[url] = entry
            self._entries.move_to_end(url)
            while len(self._entries) > self._max_entries or sum(map(_size, self._entries.values())) > self._max_bytes:
                self._entries.popitem(last=False)


def _size(entry: _Entry) -> int:
    return 0 if entry.image is None else 3 * entry.image.width * entry.image.height


__all__ = ["ImageCache"]
