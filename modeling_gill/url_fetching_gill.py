"""Fetch what a URL names, bounded in total time and in bytes.

HTTP libraries bound each read, not the whole: a server that sends one byte a second holds such a program for hours.
Here a thread does the fetching, and whoever asked stops waiting when the time is up.
"""

import http.client
import socket
import ssl
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

try:
    import certifi
except ImportError:
    certifi = None  # type: ignore[assignment]

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 64 * 1024
# Several image hosts refuse Python's default name.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; gill)", "Accept": "image/*,*/*;q=0.5"}


class FetchError(OSError):
    """A URL that could not be fetched; the message says why."""


def fetch_url(url: str, *, timeout: float, max_bytes: int) -> tuple[bytes, str]:
    """Fetch a URL by GET, following up to five redirects to other http(s) URLs.

    Args:
        url (`str`): An http or https URL; letters beyond ASCII and spaces are escaped.
        timeout (`float`): Seconds that all of it may take together: name, connection, redirects and body.
        max_bytes (`int`): Bytes that the body may have.

    Returns:
        `tuple[bytes, str]`: The body, and its content type as the server gives it ("" without one).

    Raises:
        FetchError: If nothing whole came within the bounds.
    """
    if timeout <= 0:
        raise FetchError("no time is left to fetch it")
    download = _Download(_ascii_url(url), timeout, max_bytes)
    thread = threading.Thread(target=download.run, name="gill-fetch", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        download.abandon()
        raise FetchError(f"the server did not finish within {timeout:g} s ({download.received} bytes came)")
    if download.error is not None:
        raise FetchError(_reason(download.error)) from download.error
    return bytes(download.body), download.content_type


class _Download:
    """One download: run in a thread of its own, given up from another."""

    def __init__(self, url: str, timeout: float, max_bytes: int) -> None:
        self.body = bytearray()
        self.content_type = ""
        self.error: Exception | None = None
        self._url, self._timeout, self._max_bytes = url, timeout, max_bytes
        self._sockets: list[socket.socket] = []
        self._abandoned = False

    @property
    def received(self) -> int:
        return len(self.body)

    def run(self) -> None:
        try:
            response = self._follow(self._url)
            with response:
                self._read(response)
        except Exception as error:  # whatever a hostile server provokes is reported by the waiting thread
            self.error = error

    def abandon(self) -> None:
        """End the thread as well: a read from a socket that is shut down returns at once."""
        self._abandoned = True
        for connected in list(self._sockets):
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # already closed

    def _follow(self, url: str) -> Any:
        opener = self._opener()
        for _ in range(_MAX_REDIRECTS + 1):
            try:
                return opener.open(urllib.request.Request(url, headers=_HEADERS), timeout=self._timeout)
            except urllib.error.HTTPError as answer:
                # Closed unread, since a redirect may have a body without end.
                answer.close()
                if answer.code not in _REDIRECTS or not answer.headers.get("Location"):
                    raise
                url = _ascii_url(urljoin(url, answer.headers["Location"]))
        raise FetchError(f"it was redirected more than {_MAX_REDIRECTS} times")

    def _opener(self) -> urllib.request.OpenerDirector:
        # Assembled by hand: the default one also opens ftp:, file: and data:, and follows redirects to ftp:.
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _http_handler(self._keep),
            _https_handler(self._keep),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener

    def _keep(self, connected: socket.socket) -> None:
        self._sockets.append(connected)
        if self._abandoned:
            raise FetchError("given up")

    def _read(self, response: Any) -> None:
        self.content_type = response.headers.get("Content-Type", "")
        declared = response.length
        if declared is not None and declared > self._max_bytes:
            raise FetchError(f"it has {declared} bytes, more than the limit of {self._max_bytes}")
        while not self._abandoned and (chunk := response.read1(_CHUNK)):
            self.body += chunk
            # Counted as well as declared: servers leave the length out, or lie.
            if self.received > self._max_bytes:
                raise FetchError(f"it has more than the limit of {self._max_bytes} bytes")
        if declared is not None and self.received < declared:
            raise FetchError(f"the connection ended after {self.received} of {declared} bytes")


def _http_handler(keep: Callable[[socket.socket], None]) -> urllib.request.HTTPHandler:
    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            keep(self.sock)

    class Handler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, req)

    return Handler()


def _https_handler(keep: Callable[[socket.socket], None]) -> urllib.request.HTTPSHandler:
    context = ssl.create_default_context()
    if certifi is not None:
        # Some Pythons come without any certificate authorities of their own.
        context.load_verify_locations(certifi.where())

    class Connection(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            keep(self.sock)

    class Handler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Connection, req, context=context)

    return Handler()


def _ascii_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        host = parts.netloc if parts.netloc.isascii() else parts.netloc.encode("idna").decode("ascii")
    except ValueError as error:
        raise FetchError(f"it is not a URL ({error})") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise FetchError(f"its scheme is {parts.scheme!r} ({url[:60]!r}), expected http or https")
    if not host:
        raise FetchError("it names no host")
    # All punctuation stays, so that what is escaped already is not escaped twice.
    path, query = quote(parts.path, safe=string.punctuation), quote(parts.query, safe=string.punctuation)
    return urlunsplit((parts.scheme.lower(), host, path, query, ""))


def _reason(error: Exception) -> str:
    if isinstance(error, FetchError):
        return str(error)
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return "the server did not answer in time"
    if isinstance(cause, socket.gaierror):
        return f"its host could not be found ({cause})"
    return f"it could not be fetched ({cause or type(error).__name__})"


__all__ = ["FetchError", "fetch_url"]
