"""Open an image from wherever it is: memory, a file, a URL, a `data:` URI, a row of a data set."""

import base64
import binascii
import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from .image_conversion_gill import array_to_rgb, check_size, image_to_rgb
from .url_fetching_gill import fetch_url

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000
IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)

_EXPECTED = (
    "a PIL image, a numpy array, a torch tensor, a path, an http(s) URL, a data: URI, bytes, "
    "or a dict with 'bytes' or 'path'"
)
# A PostScript file is a program, and Pillow has Ghostscript run it.
_REFUSED_FORMATS = {"EPS"}
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class ImageError(ValueError):
    """An image that could not be read. The message names the image, what is wrong and what was expected."""


def load_image(
    source: Any, *, timeout: float = 10.0, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Open an image as a new 8-bit RGB image.

    What is transparent is laid on white, the EXIF orientation is applied, and of an animation the first frame counts.

    Args:
        source: A PIL image of any mode; a numpy array or torch tensor, uint8 or float in 0..1, of shape
            (height, width), (height, width, C) or (C, height, width) with C 1, 3 or 4; a path; an http(s) URL; a
            `data:` URI; the bytes of an image file; or a dict with `bytes` or `path` as `datasets` gives it.
        timeout (`float`): Seconds that fetching a URL may take in all.
        max_bytes (`int`): Bytes that a URL or `data:` URI may hold.
        max_pixels (`int`): Width times height allowed; images of files are refused before they are decoded.
            Pillow has a limit of its own, `PIL.Image.MAX_IMAGE_PIXELS`, which holds as well.

    Returns:
        `PIL.Image.Image`: Mode RGB, sharing nothing with `source`.

    Raises:
        ImageError: If there is no image, or no whole one, or one beyond the limits.
    """
    return _load(source, timeout, max_bytes, max_pixels, keep=False)[0]


def load_image_and_file(
    source: Any, *, timeout: float = 10.0, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, bytes | None]:
    """As [`load_image`], with the bytes of the image file, or None for an image that never was a file."""
    return _load(source, timeout, max_bytes, max_pixels, keep=True)


def is_url(text: str) -> bool:
    """Whether a string is nothing but an http(s) URL."""
    with contextlib.suppress(ValueError):
        return bool(_URL.fullmatch(text.strip()) and urlsplit(text.strip()).hostname)
    return False


def looks_like_image_reference(text: str) -> bool:
    """Whether a string, rather than being words, is nothing but an http(s) URL, a `data:image/` URI or the path of an
    existing file with the suffix of an image."""
    if not isinstance(text, str) or not text.strip():
        return False
    if is_url(text):
        return True
    if text.strip()[:11].lower() == "data:image/":
        return "," in text
    path = Path(text)
    with contextlib.suppress(OSError, ValueError):  # words may be longer than paths can be
        return path.suffix.lower() in IMAGE_SUFFIXES and path.expanduser().is_file()
    return False


def _load(
    source: Any, timeout: float, max_bytes: int, max_pixels: int, *, keep: bool
) -> tuple[Image.Image, bytes | None]:
    try:
        if isinstance(source, np.ndarray | torch.Tensor):
            return array_to_rgb(source, max_pixels), None
        if isinstance(source, Image.Image):
            return _decode(source, max_pixels), None
        stream, content_type = _open(source, timeout, max_bytes)
        with stream:
            image = _decode_stream(stream, content_type, max_pixels)
            stream.seek(0)
            return image, stream.read() if keep else None
    except (ValueError, OSError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"Image could not be read: {describe_source(source)}: {error}") from error


def _open(source: Any, timeout: float, max_bytes: int) -> tuple[BinaryIO, str]:
    """A stream of the file's bytes, and the content type where a server gave one."""
    if isinstance(source, Mapping):
        if source.get("bytes") is not None:
            return _open(source["bytes"], timeout, max_bytes)
        if source.get("path"):
            return _open(source["path"], timeout, max_bytes)
        raise ValueError("it has neither 'bytes' nor 'path', expected one of them")
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(bytes(source)), ""
    if isinstance(source, str):
        text = source.strip()
        if not text:
            raise ValueError(f"it is an empty string, expected {_EXPECTED}")
        if text[:5].lower() == "data:":
            return io.BytesIO(_data_uri_bytes(text, max_bytes)), ""
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() in ("http", "https"):
            body, content_type = fetch_url(text, timeout=timeout, max_bytes=max_bytes)
            return io.BytesIO(body), content_type
        if scheme:
            raise ValueError(f"its scheme is {scheme[1]!r}, expected http, https, data: or a path")
    if isinstance(source, str | os.PathLike):
        return _open_file(Path(os.fsdecode(source)).expanduser()), ""
    raise ValueError(f"its type is {type(source).__name__}, expected {_EXPECTED}")


def _open_file(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise ValueError("it is a directory, expected an image file")
        if not path.exists():
            raise ValueError("there is no such file")
        if not path.is_file():
            raise ValueError("it is not a regular file, expected an image file")
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"it could not be opened ({error.strerror or error})") from error


def _data_uri_bytes(uri: str, max_bytes: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise ValueError("it has no comma, expected data:image/<type>;base64,<data>")
    # Three bytes of base64 take four characters, and an escaped byte takes three.
    if len(payload) > 3 * max_bytes:
        raise ValueError(f"it holds more than the limit of {max_bytes} bytes")
    content = unquote_to_bytes(payload)
    if header.lower().endswith(";base64"):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise ValueError(f"its base64 is broken ({error})") from error
    if len(content) > max_bytes:
        raise ValueError(f"it holds {len(content)} bytes, more than the limit of {max_bytes}")
    return content


def _decode_stream(stream: BinaryIO, content_type: str, max_pixels: int) -> Image.Image:
    start = stream.read(16)
    if not start:
        raise ValueError("it is empty (0 bytes), expected an image file")
    stream.seek(0)
    Image.init()
    try:
        with _whole_images_only():  # some formats are decoded as soon as they are opened
            image = Image.open(stream, formats=[name for name in Image.ID if name not in _REFUSED_FORMATS])
    except UnidentifiedImageError as error:
        served = f", and was served as {content_type!r}" if content_type else ""
        raise ValueError(f"it begins with {start!r}{served}, expected a whole image of a kind Pillow reads") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it is too large to be decoded ({error})") from error
    except Exception as error:
        raise ValueError(f"it is truncated or damaged ({str(error) or type(error).__name__})") from error
    with image:
        return _decode(image, max_pixels)


def _decode(image: Image.Image, max_pixels: int) -> Image.Image:
    check_size(image.width, image.height, max_pixels)
    try:
        with _whole_images_only():
            return image_to_rgb(image)
    except ValueError as error:
        raise ValueError(str(error) or "it could not be decoded") from error
    except Exception as error:  # Pillow's decoders raise most of what Python has for a damaged file
        raise ValueError(f"it is truncated or damaged ({str(error) or type(error).__name__})") from error


_decoding = threading.Lock()
_decoders = 0
_allowed_before = False


@contextlib.contextmanager
def _whole_images_only() -> Iterator[None]:
    """Programs set Pillow's global flag that fills the missing part of a truncated file with grey; here it is off.

    Decoders in several threads share the flag, so the first to come switches it off and the last to go restores it.
    """
    global _decoders, _allowed_before
    with _decoding:
        if _decoders == 0:
            _allowed_before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        _decoders += 1
    try:
        yield
    finally:
        with _decoding:
            _decoders -= 1
            if _decoders == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _allowed_before


def describe_source(source: Any) -> str:
    """An image's source in few words, for messages."""
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        if text[:5].lower() == "data:":
            return f"{text[:40]}... ({len(text)} characters)"
        return repr(text if len(text) <= 120 else f"{text[:90]}...{text[-25:]}")
    if isinstance(source, Image.Image):
        return f"PIL image of mode {source.mode}, {source.width} x {source.height}"
    if isinstance(source, np.ndarray):
        return f"numpy array of shape {source.shape}, {source.dtype}"
    if isinstance(source, torch.Tensor):
        return f"torch tensor of shape {tuple(source.shape)}, {source.dtype}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if isinstance(source, Mapping):
        parts = [describe_source(source[key]) for key in ("path", "bytes") if source.get(key) is not None]
        return f"dict of {', '.join(parts) or sorted(map(str, source))}"
    return f"{type(source).__name__} object"


__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "IMAGE_SUFFIXES",
    "ImageError",
    "describe_source",
    "is_url",
    "load_image",
    "load_image_and_file",
    "looks_like_image_reference",
]
