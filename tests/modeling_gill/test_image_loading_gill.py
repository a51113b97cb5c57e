"""Whatever a user hands over as an image is opened whole and upright, or refused with a reason."""

import base64
import contextlib
import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from modeling_gill.image_loading_gill import (
    ImageError,
    load_image,
    load_image_and_file,
    looks_like_image_reference,
)

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


RED_PNG = encoded(Image.new("RGB", (3, 2), RED))


# --- images in memory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "I", "F"])
def test_a_pil_image_of_any_mode_becomes_rgb_of_the_same_colours(mode: str) -> None:
    grey = Image.new("L", (4, 3), 255)
    loaded = load_image(
        grey.convert("RGB").convert(mode) if mode in ("RGBX", "HSV", "PA", "CMYK") else grey.convert(mode)
    )
    assert (loaded.mode, loaded.size) == ("RGB", (4, 3))
    assert np.asarray(loaded).min() >= 250


@pytest.mark.parametrize("mode", ["RGBa", "La"])
def test_premultiplied_transparency_is_undone(mode: str) -> None:
    half = Image.new(mode[:-1] + "A", (1, 1), (0, 128) if mode == "La" else (0, 0, 0, 128))
    assert load_image(half.convert(mode)).getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_greys_keep_their_brightness(mode: str) -> None:
    image = Image.new(mode, (2, 1), 65535)
    image.putpixel((1, 0), 32896)
    assert np.asarray(load_image(image))[0, :, 0].tolist() == [255, 128]


def test_lab_colours_are_converted() -> None:
    assert load_image(Image.new("LAB", (1, 1), (255, 128, 128))).getpixel((0, 0)) == pytest.approx(WHITE, abs=3)


def test_transparency_is_laid_on_white() -> None:
    assert load_image(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == WHITE
    assert load_image(Image.new("RGBA", (1, 1), (255, 0, 0, 255))).getpixel((0, 0)) == RED
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([255, 0, 0])
    assert load_image(encoded(palette, transparency=0)).getpixel((0, 0)) == WHITE
    assert load_image(encoded(Image.new("RGB", (1, 1), RED), transparency=RED)).getpixel((0, 0)) == WHITE


def test_the_image_handed_over_is_left_as_it_was() -> None:
    mine = Image.new("RGB", (2, 2), RED)
    load_image(mine).putpixel((0, 0), WHITE)
    assert mine.getpixel((0, 0)) == RED


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert load_image(Image.new("RGB", (1, 1), RED)).getpixel((0, 0)) == RED
    assert load_image(np.full((1, 1, 3), 255, np.uint8)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (1, 5, 7), (5, 7, 3), (3, 5, 7), (5, 7, 4), (4, 5, 7)])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_with_channels_first_or_last_or_none(shape: tuple[int, ...], kind: str) -> None:
    array = np.full(shape, 255, np.uint8)
    loaded = load_image(array if kind == "numpy" else torch.from_numpy(array))
    assert (loaded.mode, loaded.size, loaded.getpixel((6, 4))) == ("RGB", (7, 5), WHITE)


def test_where_both_readings_fit_numpy_means_channels_last_and_torch_channels_first() -> None:
    assert load_image(np.zeros((3, 9, 3), np.uint8)).size == (9, 3)
    assert load_image(torch.zeros(3, 9, 3)).size == (3, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors_are_read_as_nought_to_one(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, 2, 2, dtype=dtype, requires_grad=True)
    assert load_image(tensor).getpixel((0, 0)) == WHITE
    assert load_image(tensor.detach() * 0.5).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 4, 4), np.uint8), "image by image"),
        (np.zeros((5, 7, 2), np.uint8), r"\(5, 7, 2\)"),
        (np.zeros(5, np.uint8), r"\(5,\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least 1 x 1"),
        (np.zeros((4, 4, 3), np.int64), "int64.*uint8 or float"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (torch.full((3, 4, 4), float("inf")), "infinity"),
        (np.full((4, 4, 3), 200.0), "200.*0..1"),
        (torch.full((3, 4, 4), -1.0), "-1.*0..1"),
    ],
)
def test_a_wrong_array_is_refused_with_what_was_found_and_expected(array: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said) as error:
        load_image(array)
    assert "expected" in str(error.value) and str(tuple(array.shape)) in str(error.value)


# --- files -----------------------------------------------------------------------------------------------------------


def test_an_image_is_found_by_path_string_bytes_data_uri_and_row_of_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(RED_PNG)
    uri = "data:image/png;base64," + base64.b64encode(RED_PNG).decode()
    row = {"bytes": RED_PNG, "path": "anything.png"}
    for source in (file, str(file), RED_PNG, bytearray(RED_PNG), uri, row, {"bytes": None, "path": str(file)}):
        assert load_image(source).getpixel((2, 1)) == RED
    assert load_image_and_file(file)[1] == load_image_and_file(uri)[1] == RED_PNG
    assert load_image_and_file(Image.new("RGB", (1, 1)))[1] is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encoded(Image.new("RGB", (30, 20)), "JPEG", exif=exif))
    assert loaded.size == ((30, 20) if orientation < 5 else (20, 30))
    assert load_image(loaded).size == loaded.size


def test_a_broken_exif_block_does_not_make_an_image_unreadable() -> None:
    assert load_image(encoded(noise(), "JPEG", exif=b"Exif\0\0nonsense")).size == (60, 40)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, WHITE)]
    for format in ("GIF", "PNG", "WEBP"):
        content = encoded(
            frames[0],
            format,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if format == "WEBP" else {}),
        )
        assert load_image(content).getpixel((0, 0)) == RED


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO"])
@pytest.mark.parametrize("tolerated_by_the_program", [False, True])
def test_a_truncated_file_is_never_silently_grey(
    format: str, tolerated_by_the_program: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerated_by_the_program)
    content = encoded(noise(), format)
    for part in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(ImageError):
            load_image(content[: int(len(content) * part)])
    assert tolerated_by_the_program == ImageFile.LOAD_TRUNCATED_IMAGES


def test_what_is_no_image_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    for source, said in (
        (tmp_path / "missing.jpg", "missing.jpg.*no such file"),
        (tmp_path, "directory"),
        (tmp_path / "empty.jpg", "empty.jpg.*0 bytes"),
        (tmp_path / "page.jpg", "page.jpg.*<html>"),
        (b"", "0 bytes"),
        ("a photograph of a cat " * 500, "could not be opened"),
        ("nul\0byte.png", "no such file"),
        ("", "empty string"),
        ("ftp://host/cat.png", "'ftp'"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png", "comma"),
        ({"bytes": None, "path": None}, "neither"),
        (None, "NoneType.*expected a PIL image"),
        (7, "int.*expected a PIL image"),
    ):
        with pytest.raises(ImageError, match=said) as error:
            load_image(source)
        assert str(error.value).startswith("Image could not be read: ") and len(str(error.value)) < 500


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)))
    started = time.monotonic()
    with pytest.raises(ImageError, match="pixels"):
        load_image(bomb)
    with pytest.raises(ImageError, match=r"9000 x 9000.*64,000,000"):
        load_image(encoded(Image.new("1", (9000, 9000))))
    assert time.monotonic() - started < 2
    for held in (Image.new("L", (50, 50)), np.zeros((50, 50), np.uint8), torch.zeros(1, 50, 50)):
        with pytest.raises(ImageError, match=r"50 x 50.*2,499"):
            load_image(held, max_pixels=2499)


def test_a_line_that_would_grow_huge_when_scaled_up_is_refused() -> None:
    with pytest.raises(ImageError, match="1000 : 1"):
        load_image(Image.new("L", (100_000, 1)))


def test_postscript_is_not_run() -> None:
    with pytest.raises(ImageError, match="PS-Adobe"):
        load_image(encoded(Image.new("RGB", (4, 4)), "EPS"))


def test_what_looks_like_a_reference_to_an_image_and_what_like_words(tmp_path: Path) -> None:
    (tmp_path / "cat.JPG").touch()
    (tmp_path / "notes.txt").touch()
    for text in ("https://a.b/c", "HTTP://a.b/cat.jpg?x=1", "data:image/png;base64,AAAA", str(tmp_path / "cat.JPG")):
        assert looks_like_image_reference(text), text
    paths = [str(tmp_path / "notes.txt"), str(tmp_path / "dog.jpg"), str(tmp_path), "cat.jpg " * 1000, "a\0.jpg"]
    urls = ["look at https://a.b/c.jpg", "https://a.b/c.jpg please", "http://", "http://[", "data:text/plain,x"]
    words = ["a cat", "", *paths, *urls]
    for text in words:
        assert not looks_like_image_reference(text), text


# --- URLs ------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """A server with one misbehaviour a path."""

    def do_GET(self) -> None:
        stopped: threading.Event = self.server.stopped  # type: ignore[attr-defined]
        with contextlib.suppress(OSError):  # the client has gone, as it should
            getattr(self, "serve_" + self.path.strip("/").split("?")[0])(stopped)

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


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.stopped = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.stopped.set()  # type: ignore[attr-defined]
        running.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_url_is_fetched_through_redirects(server: str) -> None:
    for path in ("/red", "/moved", "/red?name=caf\u00e9 au lait", "/red#fragment"):
        assert load_image(server + path).getpixel((0, 0)) == RED
    assert load_image_and_file(server + "/red")[1] == RED_PNG


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/missing", "404"),
        ("/empty", "0 bytes"),
        ("/page", "<html>.*text/html"),
        ("/cut", "of 1[0-9]+ bytes"),
        ("/understated", "expected a whole image"),
        ("/loop", "redirected more than"),
        ("/tofile", "'file'.*expected http"),
    ],
)
def test_a_url_without_a_whole_image_is_named_with_the_reason(server: str, path: str, said: str) -> None:
    with pytest.raises(ImageError, match=said) as error:
        load_image(server + path)
    assert server + path in str(error.value)


@pytest.mark.parametrize("path", ["/silent", "/drip", "/drippingheader"])
def test_a_slow_server_is_given_up_when_the_time_is_up(server: str, path: str) -> None:
    started = time.monotonic()
    with pytest.raises(ImageError, match=r"within 0.4 s|in time"):
        load_image(server + path, timeout=0.4)
    assert time.monotonic() - started < 0.8


def test_the_thread_of_a_fetch_that_was_given_up_ends_too(server: str) -> None:
    with pytest.raises(ImageError):
        load_image(server + "/drippingheader", timeout=0.2)
    deadline = time.monotonic() + 2
    while any(thread.name == "gill-fetch" for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(thread.name == "gill-fetch" for thread in threading.enumerate())


@pytest.mark.parametrize("path", ["/endless", "/huge"])
def test_no_more_bytes_are_fetched_than_the_limit(server: str, path: str) -> None:
    with pytest.raises(ImageError, match="limit of 1000000"):
        load_image(server + path, max_bytes=1_000_000)
    with pytest.raises(ImageError, match="limit of 10"):
        load_image("data:image/png;base64," + base64.b64encode(RED_PNG).decode(), max_bytes=10)


def test_a_dead_host_is_an_error_of_its_own() -> None:
    for url in ("http://127.0.0.1:1/cat.png", "http://[", "http://", "https://user:secret@127.0.0.1:1/x.png"):
        with pytest.raises(ImageError):
            load_image(url, timeout=2)
