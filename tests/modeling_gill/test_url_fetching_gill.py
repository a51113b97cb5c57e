"""A URL is fetched whole within time and bytes, from public addresses only where that is asked for."""

import contextlib
import functools
import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from modeling_gill import url_fetching_gill
from modeling_gill.image_loading_gill import ImageError, load_image, load_image_and_file
from modeling_gill.url_fetching_gill import FetchError, fetch_url, is_public_address
from tests.modeling_gill.test_image_loading_gill import RED, RED_PNG


@functools.cache
def gzip_bomb() -> bytes:
    compressor = zlib.compressobj(1, wbits=31)
    return b"".join([*(compressor.compress(bytes(1_000_000)) for _ in range(100)), compressor.flush()])


SERVERS: dict[str, ThreadingHTTPServer] = {}


class Handler(BaseHTTPRequestHandler):
    """A server with one misbehaviour a path."""

    def do_GET(self) -> None:
        stopped: threading.Event = self.server.stopped  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # the client has gone, as it should
            self.server.hosts.append(self.headers["Host"])  # type: ignore[attr-defined]
            path = "red" if self.path == "/caf%C3%A9" else self.path.strip("/").split("?")[0]
            getattr(self, "serve_" + path)(stopped)

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: bytes, length: int | None = None, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def serve_red(self, _: threading.Event) -> None:
        self.answer(RED_PNG, len(RED_PNG), Content_Type="image/png")

    def serve_page(self, _: threading.Event) -> None:
        self.answer(b"<html>sorry</html>", 18, Content_Type="text/html")

    def serve_missing(self, _: threading.Event) -> None:
        self.answer(b"", 0, 404)

    def serve_empty(self, _: threading.Event) -> None:
        self.answer(b"", 0)

    def serve_silent(self, stopped: threading.Event) -> None:
        stopped.wait(20)

    def serve_drip(self, stopped: threading.Event) -> None:
        self.answer(b"", 1000)
        for byte in RED_PNG * 20:
            self.wfile.write(bytes([byte]))
            if stopped.wait(0.05):
                return

    def serve_drippingheader(self, stopped: threading.Event) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 1000:
            self.wfile.write(bytes([byte]))
            if stopped.wait(0.05):
                return

    def serve_endless(self, _: threading.Event) -> None:
        self.answer(b"")
        while True:
            self.wfile.write(bytes(65536))

    def serve_huge(self, _: threading.Event) -> None:
        self.answer(b"", 10**12)

    def serve_cut(self, _: threading.Event) -> None:
        self.answer(RED_PNG, len(RED_PNG) + 100)

    def serve_understated(self, _: threading.Event) -> None:
        self.answer(RED_PNG, 30)

    def serve_moved(self, _: threading.Event) -> None:
        self.answer(b"", 0, 308, Location="/red")

    def serve_loop(self, _: threading.Event) -> None:
        self.answer(b"", 0, 302, Location="/loop")

    def serve_tofile(self, _: threading.Event) -> None:
        self.answer(b"", 0, 302, Location="file:///etc/hostname")

    def serve_tohost(self, _: threading.Event) -> None:
        port = self.server.server_address[1]  # type: ignore[attr-defined]
        self.answer(b"", 0, 302, Location=f"http://inside.test:{port}/red")

    def serve_unescaped(self, _: threading.Event) -> None:
        self.wfile.write("HTTP/1.0 302 Found\r\nLocation: /caf\u00e9\r\nContent-Length: 0\r\n\r\n".encode())

    def serve_gzip(self, _: threading.Event) -> None:
        self.answer(gzip.compress(RED_PNG), Content_Encoding="gzip")

    def serve_deflate(self, _: threading.Event) -> None:
        self.answer(zlib.compress(RED_PNG), Content_Encoding="deflate")

    def serve_rawdeflate(self, _: threading.Event) -> None:
        self.answer(zlib.compress(RED_PNG)[2:-4], Content_Encoding="deflate")

    def serve_gzipbomb(self, _: threading.Event) -> None:
        self.answer(gzip_bomb(), Content_Encoding="gzip")

    def serve_halfgzip(self, _: threading.Event) -> None:
        self.answer(gzip.compress(RED_PNG)[:-12], Content_Encoding="gzip")

    def serve_brotli(self, _: threading.Event) -> None:
        self.answer(RED_PNG, len(RED_PNG), Content_Encoding="br")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.stopped = threading.Event()  # type: ignore[attr-defined]
        running.hosts = []  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_address[1]}"
        SERVERS[url] = running
        yield url
        running.stopped.set()  # type: ignore[attr-defined]
        running.shutdown()


def requests_of(server: str) -> list[str]:
    """The hosts that were asked for, of all requests so far."""
    return SERVERS[server].hosts  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_url_is_fetched_through_redirects(server: str) -> None:
    for path in ("/red", "/moved", "/unescaped", "/red?name=caf\u00e9 au lait", "/red#fragment"):
        assert load_image(server + path).getpixel((0, 0)) == RED
    assert load_image_and_file(server + "/red")[1] == RED_PNG


@pytest.mark.parametrize("path", ["/gzip", "/deflate", "/rawdeflate"])
def test_a_compressed_body_is_decompressed(server: str, path: str) -> None:
    assert fetch_url(server + path, timeout=10, max_bytes=1000)[0] == RED_PNG


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "404"),
        ("/empty", "0 bytes"),
        ("/page", "not a whole image.*text/html"),
        ("/cut", "connection ended early"),
        ("/understated", "not a whole image"),
        ("/loop", "redirected more than"),
        ("/tofile", "'file', expected http"),
        ("/halfgzip", "compressed body ended early"),
        ("/brotli", "expected gzip"),
    ],
)
def test_a_url_without_a_whole_image_is_named_with_the_reason(server: str, path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        load_image(server + path)
    assert server + path in str(error.value) and "sorry" not in str(error.value)


@pytest.mark.parametrize("path", ["/silent", "/drip", "/drippingheader"])
def test_a_slow_server_is_given_up_when_the_time_is_up(server: str, path: str) -> None:
    with pytest.raises(ImageError, match=r"within 0.4 s|in time"):
        load_image(server + path, timeout=0.4)


def test_the_thread_of_a_fetch_that_was_given_up_ends_too(server: str) -> None:
    with pytest.raises(ImageError):
        load_image(server + "/drippingheader", timeout=0.2)
    for thread in threading.enumerate():
        if thread.name == "gill-fetch":
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("path", ["/endless", "/huge", "/gzipbomb"])
def test_no_more_bytes_are_fetched_or_decompressed_than_the_limit(server: str, path: str) -> None:
    with pytest.raises(ImageError, match="limit of 1000000"):
        load_image(server + path, max_bytes=1_000_000)


def test_a_decompression_bomb_takes_no_more_memory_than_the_limit(server: str) -> None:
    gzip_bomb()
    tracemalloc.start()
    try:
        with pytest.raises(FetchError):
            fetch_url(server + "/gzipbomb", timeout=10, max_bytes=1_000_000)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_dead_host_is_an_error_of_its_own() -> None:
    for url in ("http://127.0.0.1:1/cat.png", "http://[", "http://", "http://nowhere.invalid/cat.png"):
        with pytest.raises(ImageError):
            load_image(url, timeout=2)


def test_no_error_repeats_a_password_or_a_query(server: str) -> None:
    port = server.rpartition(":")[2]
    for url in (
        f"http://user:secret@127.0.0.1:{port}/missing?key=secret#secret",
        f"http://user:secret@127.0.0.1:{port}/page?key=secret",
        "https://user:secret@127.0.0.1:1/x.png?key=secret",
        "http://user:secret@h\u00e9llo .invalid/?secret",
        "ftp://user:secret@host/x.png?secret",
    ):
        with pytest.raises(ImageError) as error:
            load_image(url, timeout=2)
        cause: BaseException | None = error.value
        while cause is not None:
            assert "secret" not in str(cause)
            cause = cause.__cause__


# --- public addresses only -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:db8::1",
        "not-an-address",
    ],
)
def test_an_address_that_is_not_of_the_public_internet_is_known(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_a_public_address_is_known(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "user@127.0.0.1",
        "①②⑦.0.0.1",
        "127。0.0.1",
    ],
)
def test_no_spelling_of_a_local_address_is_fetched_where_only_public_ones_are_allowed(server: str, host: str) -> None:
    port = server.rpartition(":")[2]
    seen = list(requests_of(server))
    for allowed in (("public_url",), ("memory", "data", "public_url")):
        with pytest.raises(ImageError):
            load_image(f"http://{host}:{port}/red", allowed_sources=allowed, timeout=5)
    assert requests_of(server) == seen


@pytest.fixture
def loopback_is_public(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`images.test` has the address 127.0.0.1, which counts as public here, once; later and elsewhere 127.0.0.2."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".test"):
            asked.append(str(host))
            host = "127.0.0.1" if asked == ["images.test"] else "127.0.0.2"
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(url_fetching_gill, "is_public_address", lambda address: address == "127.0.0.1")
    return asked


def test_the_connection_is_made_to_the_address_that_was_checked(server: str, loopback_is_public: list[str]) -> None:
    port = server.rpartition(":")[2]
    image = load_image(f"http://images.test:{port}/red", allowed_sources=("public_url",))
    assert image.getpixel((0, 0)) == RED
    assert loopback_is_public == ["images.test"]
    assert requests_of(server)[-1] == f"images.test:{port}"


def test_a_redirect_to_an_address_inside_is_not_followed(server: str, loopback_is_public: list[str]) -> None:
    port = server.rpartition(":")[2]
    with pytest.raises(ImageError, match="no public internet address") as error:
        load_image(f"http://images.test:{port}/tohost", allowed_sources=("public_url",))
    assert "127.0.0.2" not in str(error.value)
    assert loopback_is_public == ["images.test", "inside.test"]


def test_a_proxy_does_not_get_urls_that_must_be_public(
    server: str, loopback_is_public: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    port = server.rpartition(":")[2]
    assert load_image(f"http://images.test:{port}/red", allowed_sources=["public_url"]).getpixel((0, 0)) == RED
