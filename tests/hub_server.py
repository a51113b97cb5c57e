"""A server on this machine that speaks enough of the Hub's HTTP interface to push to it and to load from it.

Standard library alone. It keeps what a Hub keeps (repositories, commits, refs, large files, who may do what), logs
every request, and fails on demand, so that a test can ask what is left of a push that was interrupted anywhere.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.hub_answers import HubRequestHandler, Request
from tests.hub_repositories import Repositories

WRITER_TOKEN = "hf_writer"
STRANGER_TOKEN = "hf_stranger"
# What each token's owner is called, and which namespaces are theirs.
DEFAULT_USERS = {WRITER_TOKEN: ("writer", ("writer", "org")), STRANGER_TOKEN: ("stranger", ("stranger",))}


@dataclass
class Failure:
    """What is to go wrong: the `at`-th request from now, and all after it if `lasting`."""

    at: int
    status: int | None
    lasting: bool
    after: bool


class HubServer:
    """The server, in threads of this process.

    Args:
        folder (`Path`): Where contents are kept.
        users (`dict`): For each token the name of its owner and the namespaces that they may write to.
        check_card (`Callable`, *optional*): Says what is wrong with a card's text, as the Hub's validator would.
    """

    def __init__(
        self,
        folder: Path,
        users: dict[str, tuple[str, tuple[str, ...]]] | None = None,
        check_card: Callable[[str], list[str]] | None = None,
    ) -> None:
        self.repositories = Repositories(folder)
        self.users = dict(DEFAULT_USERS if users is None else users)
        self.check_card = check_card or (lambda text: [])
        self.requests: list[Request] = []
        self._failure: Failure | None = None
        self.lock = threading.RLock()
        handler = type("Handler", (HubRequestHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Serve until the block is left."""
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def fail_at(self, n: int, status: int | None = 500, lasting: bool = True, after: bool = False) -> None:
        """Let the `n`-th request from now (1 is the next) go wrong.

        Args:
            status (`int`, *optional*): What to answer; `None` drops the connection without a word.
            lasting (`bool`): The server stays down until [`HubServer.recover`]; else only that request fails.
            after (`bool`): The request is carried out before the failure, as when an answer gets lost.
        """
        with self.lock:
            self._failure = Failure(n, status, lasting, after)

    def recover(self) -> None:
        """Nothing fails any longer."""
        with self.lock:
            self._failure = None

    def next_failure(self) -> Failure | None:
        """The failure that the request now at hand is to meet, if any. Counts."""
        with self.lock:
            failure = self._failure
            if failure is None:
                return None
            failure.at -= 1
            if failure.at > 0:
                return None
            if not failure.lasting:
                self._failure = None
            return failure

    def log(self, request: Request) -> None:
        """Remember a request."""
        with self.lock:
            self.requests.append(request)


__all__ = ["DEFAULT_USERS", "STRANGER_TOKEN", "WRITER_TOKEN", "HubServer", "Request"]
