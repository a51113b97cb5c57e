"""Remember what URLs led to, so that no URL is fetched twice while it is remembered."""

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

from PIL import Image

from modeling_gill.image_loading_gill import PictureError, load_picture

# A dead server may come back; until then it is not asked each time.
_FAILURE_LIFETIME_S = 600.0


class _Entry(NamedTuple):
    picture: Image.Image | None
    failure: str
    timeout: float
    time: float


class PictureCache:
    """The pictures and failures of the URLs asked for last. Safe to share between threads.

    Args:
        max_entries (`int`): URLs remembered.
        max_bytes (`int`): Bytes that the remembered pictures may take, three a pixel.
    """

    def __init__(self, max_entries: int = 256, max_bytes: int = 256 * 1024 * 1024) -> None:
        self._max_entries, self._max_bytes = max_entries, max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, url: str, *, timeout: float) -> Image.Image:
        """The picture at a URL as [`load_picture`] gives it, a copy of one's own.

        A failure is remembered for ten minutes, and only for those who would wait no longer than the one who met it.

        Raises:
            PictureError: If there is none.
        """
        with self._lock:
            entry = self._entries.get(url)
            if entry is not None and self._still_holds(entry, timeout):
                self._entries.move_to_end(url)
                if entry.picture is None:
                    raise PictureError(entry.failure)
                return entry.picture.copy()
        try:
            picture = load_picture(url, timeout=timeout)
        except PictureError as error:
            self._keep(url, _Entry(None, str(error), timeout, time.monotonic()))
            raise
        self._keep(url, _Entry(picture.copy(), "", timeout, time.monotonic()))
        return picture

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    @staticmethod
    def _still_holds(entry: _Entry, timeout: float) -> bool:
        if entry.picture is not None:
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
    return 0 if entry.picture is None else 3 * entry.picture.width * entry.picture.height


__all__ = ["PictureCache"]
