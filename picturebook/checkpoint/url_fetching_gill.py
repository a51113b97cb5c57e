"""Fetch a URL within limits of time and bytes, from public addresses only where that is asked for."""

import ipaddress
import socket
import threading
import zlib
from collections.abc import Iterator
from typing import Any

try:
    # huggingface_hub brings one of the two: httpx2 continues httpx under another name.
    import httpx2 as httpx
except ImportError:
    import httpx  # type: ignore[import-not-found, no-redef]

_MAX_REDIRECTS = 5
# Several image hosts refuse the default user agents of Python libraries.
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (compatible; gill)",
    "Accept": "image/*,*/*;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}
# Metadata services (Azure, Oracle) in addresses that `ipaddress` counts as global; those of others are link-local.
_METADATA_NETWORKS = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(OSError):
    """A URL that could not be fetched; the message says why, and holds nothing of what the server answered."""


def fetch_url(url: str, *, timeout: float, max_bytes: int, public_only: bool = False) -> tuple[bytes, str]:
    """Fetch a URL by GET, following up to five redirects to other http(s) URLs.

    Args:
        url (`str`): An http or https URL; characters beyond ASCII and spaces are escaped.
        timeout (`float`): Seconds for name resolution, connection, redirects and body together.
        max_bytes (`int`): Limit on the body, before and after decompression.
        public_only (`bool`, defaults to `False`):
            Connect to public internet addresses only. Each host, also of a redirect, is resolved once, its addresses
            are checked, and the connection is made to a checked address, without a proxy.

    Returns:
        `tuple[bytes, str]`: The body, decompressed, and its content type as the server gives it ("" without one).

    Raises:
        FetchError: If no whole body came within the limits.
    """
    if timeout <= 0:
        raise FetchError("no time is left to fetch it")
    download = _Download(url, timeout, max_bytes, public_only)
    # HTTP libraries limit each read, not the whole, and nothing limits the resolution of a name: the fetch runs in a
    # thread, and the caller stops waiting when the time is up.
    thread = threading.Thread(target=download.run, name="gill-fetch", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        download.abandon()
        raise FetchError(f"the server did not finish within {timeout:.3g} s ({len(download.body)} bytes came)")
    if download.error is not None:
        raise FetchError(_reason(download.error)) from download.error
    return bytes(download.body), download.content_type


class _Download:
    """One download, run in a thread of its own and abandoned from another."""

    def __init__(self, url: str, timeout: float, max_bytes: int, public_only: bool) -> None:
        self.body = bytearray()
        self.content_type = ""
        self.error: Exception | None = None
        self._url, self._timeout, self._max_bytes, self._public_only = url, timeout, max_bytes, public_only
        self._sockets: list[socket.socket] = []
        self._abandoned = False

    def run(self) -> None:
        try:
            # A proxy would resolve the name again, and might get another address than the checked one.
            with httpx.Client(timeout=self._timeout, trust_env=not self._public_only) as client:
                self._fetch(client)
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

    def _fetch(self, client: Any) -> None:
        url = _parse_url(self._url)
        for _ in range(_MAX_REDIRECTS + 1):
            response = client.send(self._request(client, url), stream=True)
            try:
                location = response.headers.get("Location")
                if response.is_redirect and location:
                    url = _parse_url(url.join(location))
                    continue
                if response.status_code != 200:
                    raise FetchError(f"the server answered with status {response.status_code}")
                self._read(response)
                return
            finally:
                response.close()  # without reading the rest: a redirect may have an endless body
        raise FetchError(f"it was redirected more than {_MAX_REDIRECTS} times")

    def _request(self, client: Any, url: Any) -> Any:
        extensions: dict[str, Any] = {"trace": self._trace, "timeout": dict.fromkeys(_TIMEOUTS, self._timeout)}
        if not self._public_only:
            return client.build_request("GET", url, headers=_HEADERS, extensions=extensions)
        # The checked address takes the place of the host, so that no second resolution can give another one.
        headers = {**_HEADERS, "Host": url.netloc.decode("ascii")}
        extensions["sni_hostname"] = url.raw_host.decode("ascii")
        address = _public_address(url.host, url.port or {"http": 80, "https": 443}[url.scheme])
        return client.build_request("GET", url.copy_with(host=address), headers=headers, extensions=extensions)

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._sockets.append(info["return_value"].get_extra_info("socket"))
        if self._abandoned:
            raise FetchError("given up")

    def _read(self, response: Any) -> None:
        self.content_type = response.headers.get("Content-Type", "")
        declared = response.headers.get("Content-Length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise FetchError(f"it has {declared} bytes, more than the limit of {self._max_bytes}")
        for chunk in self._decompressed(response):
            self.body += chunk
            # Counted as well as declared: servers leave the length out, or give a wrong one.
            if len(self.body) > self._max_bytes:
                raise FetchError(f"it has more than the limit of {self._max_bytes} bytes")

    def _decompressed(self, response: Any) -> Iterator[bytes]:
        # httpx decompresses too, but without a limit: 64 kB can become gigabytes in one step.
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        chunks = response.iter_raw()
        if encoding in ("identity", ""):
            yield from chunks
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise FetchError("its content encoding is unknown, expected gzip, deflate or none")
        first = next(chunks, b"")
        # "deflate" is sent with a zlib header, as the standard says, and without one.
        raw_deflate = encoding == "deflate" and not (len(first) > 1 and int.from_bytes(first[:2], "big") % 31 == 0)
        decompressor = zlib.decompressobj(-15 if raw_deflate else 47)
        for chunk in _chain(first, chunks):
            yield decompressor.decompress(chunk, self._max_bytes - len(self.body) + 1)
            if decompressor.unconsumed_tail:
                raise FetchError(f"it has more than the limit of {self._max_bytes} bytes when decompressed")
        if not decompressor.eof:
            raise FetchError("its compressed body ended early")


_TIMEOUTS = ("connect", "read", "write", "pool")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _parse_url(url: Any) -> Any:
    parsed = httpx.URL(url.strip() if isinstance(url, str) else url)
    if parsed.scheme not in ("http", "https"):
        raise FetchError(f"its scheme is {parsed.scheme[:20]!r}, expected http or https")
    if not parsed.host:
        raise FetchError("it names no host")
    return parsed.copy_with(fragment=None)


def _public_address(host: str, port: int) -> str:
    """A public address of a host.

    Raises:
        FetchError: without the addresses, which are nothing that a stranger should learn of an internal network.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for _, _, _, _, address in found:
        if is_public_address(str(address[0])):
            return str(address[0])
    raise FetchError("its host has no public internet address, and only those are allowed")


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    Private, loopback, link-local, carrier-grade NAT, multicast, reserved and unspecified addresses are not, in IPv4
    and IPv6, nor are IPv6 addresses that lead to such an IPv4 address (mapped, 6to4, Teredo, NAT64).
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # such as a link-local address with a zone
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if ip.ipv4_mapped is not None:
            return is_public_address(str(ip.ipv4_mapped))
        if not all(is_public_address(str(inner)) for inner in embedded if inner is not None):
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _METADATA_NETWORKS)


def _reason(error: Exception) -> str:
    if isinstance(error, FetchError):
        return str(error)
    if isinstance(error, httpx.InvalidURL):
        return "it is not a valid URL"
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return "the server did not answer in time"
    if isinstance(error, socket.gaierror) or isinstance(error.__cause__, socket.gaierror):
        return "its host could not be found"
    if isinstance(error, httpx.ConnectError):
        return f"no connection to its host could be made ({error})"
    if isinstance(error, httpx.RemoteProtocolError):
        return "the connection ended early, or the answer is not HTTP"
    if isinstance(error, zlib.error):
        return "its compressed body is damaged"
    return f"it could not be fetched ({type(error).__name__})"


__all__ = ["FetchError", "fetch_url", "is_public_address"]
