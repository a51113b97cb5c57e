"""What one visitor may ask for, so that a shared page stays quick for everybody."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeling_gill.image_loading_gill import ImageLimits

# What is said to whom a batch was too slow for.
TOO_LATE = "This took too long and was stopped. Fewer steps or fewer images are quicker."


class RequestRefused(ValueError):
    """A request that is not answered. The message is for the person who made it."""


@dataclass(frozen=True)
class ChatLimits:
    """Limits of a chat page.

    Args:
        max_batch_size (`int`): Requests that run together.
        max_waiting (`int`): Requests of all visitors that wait.
        max_waiting_per_visitor (`int`): Requests of one visitor that wait or run.
        requests_per_minute (`int`): Of one visitor, which is a browser tab or a client of the API.
        requests_per_minute_of_address (`int`): Of one network address, which several visitors may share.
        max_seconds (`float`): From a request to the end of its answer, the time to wait included.
        max_characters (`int`): Of one message.
        max_images_per_message (`int`), max_image_bytes (`int`), max_image_pixels (`int`): Of uploaded images.
        image_size (`int`): Larger images are made smaller, to this many pixels on their longer side.
        max_messages (`int`), max_images (`int`): What is read of a dialogue, counted from its end.
        max_answer_images (`int`), max_candidates (`int`), max_steps (`int`), max_new_tokens (`int`): Of an answer.
    """

    max_batch_size: int = 8
    max_waiting: int = 64
    max_waiting_per_visitor: int = 2
    requests_per_minute: int = 30
    requests_per_minute_of_address: int = 240
    max_seconds: float = 180.0
    max_characters: int = 2000
    max_images_per_message: int = 4
    max_image_bytes: int = 10 * 1024 * 1024
    max_image_pixels: int = 20_000_000
    image_size: int = 1024
    max_messages: int = 10
    max_images: int = 16
    max_answer_images: int = 4
    max_candidates: int = 4
    max_steps: int = 100
    max_new_tokens: int = 128

    def of_images(self) -> "ImageLimits":
        """The limits on the images of one request, for a processor."""
        from modeling_gill.image_loading_gill import ImageLimits

        return ImageLimits(
            max_images=self.max_images,
            max_bytes=self.max_image_bytes,
            max_pixels=self.max_image_pixels,
            timeout=5.0,
            max_total_seconds=15.0,
        )


class RateLimit:
    """At most so many requests a minute of each visitor; visitors of the last minute are remembered, no others."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many visitors are remembered."""
        return len(self._times)

    def count(self, visitor: str, now: float | None = None) -> None:
        """Count a request.

        Args:
            visitor (`str`): Who makes it.
            now (`float`, *optional*): Seconds, for tests.

        Raises:
            RequestRefused: the visitor has made too many; the message says when to try again.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            for known in [name for name, times in self._times.items() if times[-1] <= now - 60]:
                del self._times[known]
            times = self._times.setdefault(visitor, deque(maxlen=self.per_minute))
            if len(times) == self.per_minute and times[0] > now - 60:
                wait = int(times[0] + 60 - now) + 1
                raise RequestRefused(f"That is many messages in a minute. Please try again in {wait} seconds.")
            times.append(now)


__all__ = ["TOO_LATE", "ChatLimits", "RateLimit", "RequestRefused"]
