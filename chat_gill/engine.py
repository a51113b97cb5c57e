"""One model for all visitors: requests wait in a queue, and those with the same settings run as one batch."""

import logging
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .answer_request import Answer, AnswerSettings, Event, Failure, Request, Waiting
from .limits import TOO_LATE, ChatLimits, RateLimit, RequestRefused

if TYPE_CHECKING:
    from pipeline_gill import GillPipeline

logger = logging.getLogger(__name__)
_BROKEN = "Something went wrong here; it is not your fault. Please try again."


class AnswerEngine:
    """
    Answers dialogues, one batch after the other, in a thread of its own.

    Args:
        load (`Callable[[], GillPipeline]`): Loads the pipeline; called in the engine's thread, at once.
        limits ([`ChatLimits`]): On what one visitor may ask for.
        gpu (`Callable`, *optional*):
            Decorator of the function that needs the GPU, `spaces.GPU` on ZeroGPU. It runs in another process then, so
            answers come whole, without partial ones.

    Example:

    ```python
    >>> from chat_gill import AnswerEngine
    >>> from gill import GillPipeline

    >>> engine = AnswerEngine(lambda: GillPipeline.from_pretrained("picturebook/checkpoint"))
    >>> answer = engine.answer([{"role": "user", "content": "Show me a cat"}])
    >>> answer.pieces[0]
    'a cat'
    >>> engine.close()
    ```
    """

    def __init__(
        self,
        load: "Callable[[], GillPipeline]",
        limits: ChatLimits | None = None,
        gpu: Callable[..., Any] | None = None,
    ) -> None:
        self.limits = limits or ChatLimits()
        self.problem: str | None = None
        self._load = load
        # Decorated at once: a Space on ZeroGPU looks for such functions when it starts.
        self._call = None if gpu is None else gpu(lambda *call: self._call_pipeline(*call))
        self._pipe: GillPipeline | None = None
        self._loaded = threading.Event()
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._closed = False
        self._rates = (
            RateLimit(self.limits.requests_per_minute),
            RateLimit(self.limits.requests_per_minute_of_address),
        )
        self._thread = threading.Thread(target=self._serve, name="gill-answers", daemon=True)
        self._thread.start()

    @property
    def is_loading(self) -> bool:
        return not self._loaded.is_set()

    def pipeline(self, timeout: float | None = None) -> "GillPipeline":
        """The pipeline, once it is loaded.

        Raises:
            RuntimeError: it could not be loaded, or not within `timeout` seconds.
        """
        self._loaded.wait(timeout)
        if self._pipe is None:
            raise RuntimeError(self.problem or "The model is still being loaded.")
        return self._pipe

    def submit(
        self,
        messages: list[dict[str, Any]],
        settings: AnswerSettings | None = None,
        *,
        report: Callable[[Event], None],
        visitor: str = "",
        address: str = "",
        seed: int | None = None,
    ) -> Request:
        """Put a dialogue into the queue.

        Args:
            messages (`list[dict]`): Chat messages whose images are PIL images.
            settings ([`AnswerSettings`], *optional*): How to answer.
            report (`Callable`): Called with every event, from the engine's thread.
            visitor (`str`), address (`str`): Whose request it is; empty for nobody that limits are for.
            seed (`int`, *optional*): Of the image generator's random numbers.

        Returns:
            [`Request`]: Its `stop()` frees its place.

        Raises:
            RequestRefused: too much, too often, or no model. The message is for the visitor.
        """
        settings = settings or AnswerSettings()
        settings.check(self.limits)
        if seed is not None and not 0 <= seed < 2**63:
            raise RequestRefused(f"The seed is {seed}; expected 0 or more.")
        if self.problem is not None:
            raise RequestRefused(self.problem)
        for limit, name in zip(self._rates, (visitor, address), strict=True):
            if name:
                limit.count(name)
        request = Request(messages, settings, report, visitor, self.limits.max_seconds)
        if seed is not None:
            request.seed = seed
        with self._changed:
            if self._closed:
                raise RequestRefused("The page is being closed.")
            active = [item for item in (*self._waiting, *self._running) if not item.is_over]
            if len(active) >= self.limits.max_waiting:
                raise RequestRefused("Many people are waiting for answers. Please try again in a minute.")
            if visitor and sum(item.visitor == visitor for item in active) >= self.limits.max_waiting_per_visitor:
                raise RequestRefused("Your earlier messages are still being answered. Please wait for them.")
            self._waiting.append(request)
            request.report(Waiting(self.is_loading, len(active)))
            self._changed.notify()
        return request

    def answer(self, messages: list[dict[str, Any]], settings: AnswerSettings | None = None, **options: Any) -> Answer:
        """Answer a dialogue, and wait for it.

        Args:
            options: `visitor`, `address` and `seed` of [`AnswerEngine.submit`].

        Raises:
            RequestRefused: as of [`AnswerEngine.submit`], or the request failed.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        request = self.submit(messages, settings, report=events.put, **options)
        try:
            while True:
                event = events.get()
                if isinstance(event, Answer):
                    return event
                if isinstance(event, Failure):
                    raise RequestRefused(event.message)
        finally:
            request.stop()

    def close(self) -> None:
        """End the engine's thread after the batch that runs. Whoever waits is told."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            for request in (*waiting, *self._running):
                request.stop()
            self._changed.notify()
        for request in waiting:
            request.report(Failure("The page is being closed."))
        self._thread.join(timeout=30)

    def _call_pipeline(self, *call: Any) -> list[Any]:
        from .batch import call_pipeline

        return call_pipeline(self.pipeline(), *call)

    def _serve(self) -> None:
        try:
            self._pipe = self._load()
        except Exception as error:
            logger.error("The model could not be loaded", exc_info=True)
            self.problem = f"The model could not be loaded: {error}"
        self._loaded.set()
        from .batch import run_batch

        while batch := self._next_batch():
            try:
                if self._pipe is None:
                    raise RuntimeError(self.problem)
                run_batch(self._pipe, batch, self._call)
            except Exception:
                logger.error("A batch of requests failed", exc_info=True)
                for request in batch:
                    request.report(Failure(self.problem or _BROKEN))
            finally:
                with self._changed:
                    self._running = []

    def _next_batch(self) -> list[Request]:
        """The request that has waited longest, with all others that can run with it; empty when closed."""
        with self._changed:
            while True:
                over = [request for request in self._waiting if request.is_over]
                self._waiting = [request for request in self._waiting if request not in over]
                for request in over:
                    if request.is_late:
                        request.report(Failure(TOO_LATE))
                if self._closed:
                    return []
                if self._waiting:
                    break
                self._changed.wait()
            settings = self._waiting[0].settings
            same = [request for request in self._waiting if request.settings == settings]
            batch = same[: self.limits.max_batch_size]
            self._waiting = [request for request in self._waiting if request not in batch]
            self._running = batch
            return batch


__all__ = ["AnswerEngine"]
