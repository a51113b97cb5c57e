"""What an image is given as: memory, a file, a URL or a `data:` URI."""

import base64
import binascii
import contextlib
import io
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
IMAGE_SOURCES = ("memory", "data", "public_url", "url", "file")
KIND_NAMES = {"memory": "memory", "data": "a data: URI", "url": "a URL", "file": "a file"}

_EXPECTED = (
    "a PIL image, a numpy array, a torch tensor, a path, an http(s), file: or data: URI, bytes, a binary file object, "
    "or a dict with 'bytes' or 'path'"
)
_URL = re.compile(r"https?://\S+", re.IGNORECASE)
SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def check_allowed_sources(allowed_sources: Collection[str]) -> tuple[str, ...]:
    """The kinds of sources in their usual order.

    Raises:
        ValueError: naming those that there are not.
    """
    kinds = (allowed_sources,) if isinstance(allowed_sources, str) else tuple(allowed_sources)
    if unknown := [kind for kind in kinds if kind not in IMAGE_SOURCES]:
        raise ValueError(f"Unknown image sources {unknown}; expected some of {', '.join(IMAGE_SOURCES)}.")
    return tuple(kind for kind in IMAGE_SOURCES if kind in kinds)


def is_url(text: str) -> bool:
    """Whether a string is nothing but an http(s) URL."""
    with contextlib.suppress(ValueError):
        return bool(_URL.fullmatch(text.strip()) and urlsplit(text.strip()).hostname)
    return False


def looks_like_image_reference(text: str, allowed_sources: Collection[str] = IMAGE_SOURCES) -> bool:
    """Whether a string is nothing but an http(s) URL, a `data:image/` or `file:` URI, or the path of an existing file
    with the suffix of an image.

    Where files are not allowed, no path is looked up: it is text, and nobody learns whether the file exists.
    """
    if not isinstance(text, str) or not text.strip():
        return False
    if is_url(text):
        return True
    stripped = text.strip()
    if stripped[:11].lower() == "data:image/":
        return "," in stripped
    if stripped[:7].lower() == "file://":
        return not any(character.isspace() for character in stripped)
    if "file" not in allowed_sources:
        return False
    path = Path(text)
    with contextlib.suppress(OSError, ValueError):  # words may be longer than paths can be
        return path.suffix.lower() in IMAGE_SUFFIXES and home_expanded(path).is_file()
    return False


def source_kind(source: Any) -> str:
    if isinstance(source, Mapping):
        content, path = source.get("bytes"), source.get("path")
        if content is not None:
            # A path or a URL under this key would be opened as what came from memory.
            if not isinstance(content, bytes | bytearray | memoryview) and not is_binary_file(content):
                raise ValueError(f"its 'bytes' are of type {type(content).__name__}, expected bytes")
            return "memory"
        if path:
            if not isinstance(path, str | os.PathLike):
                raise ValueError(f"its 'path' is of type {type(path).__name__}, expected a string")
            return source_kind(path)
        raise ValueError("it has neither 'bytes' nor 'path', expected one of them")
    if isinstance(source, np.ndarray | torch.Tensor | Image.Image | bytes | bytearray | memoryview):
        return "memory"
    if isinstance(source, os.PathLike):
        return "file"
    if isinstance(source, str):
        text = source.strip()
        if not text:
            raise ValueError(f"it is an empty string, expected {_EXPECTED}")
        if text[:5].lower() == "data:":
            return "data"
        scheme = SCHEME.match(text)
        return "url" if scheme and scheme[1].lower() != "file" else "file"
    if is_binary_file(source):
        return "memory"
    raise ValueError(f"its type is {type(source).__name__}, expected {_EXPECTED}")


def is_binary_file(source: Any) -> bool:
    return callable(getattr(source, "read", None)) and not isinstance(source, io.TextIOBase)


def read_file_object(source: Any, max_bytes: int) -> bytes:
    if callable(getattr(source, "seek", None)):
        source.seek(0)  # a buffer that was just written to stands at its end
    content = source.read(max_bytes + 1)
    if not isinstance(content, bytes):
        raise ValueError(f"its `read` returns {type(content).__name__}, expected bytes")
    if len(content) > max_bytes:
        raise ValueError(f"it holds more than the limit of {max_bytes} bytes")
    return content


def file_uri_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"its host is {parts.netloc[:60]!r}, expected file:///path")
    return Path(url2pathname(parts.path))


def home_expanded(path: Path) -> Path:
    """The path with `~` replaced by the home directory; a `ValueError` where that is not known."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError("its home directory is not known") from error


def open_file(path: Path) -> BinaryIO:
    path = home_expanded(path)
    try:
        if path.is_dir():
            raise ValueError("it is a directory, expected an image file")
        if not path.exists():
            raise ValueError("there is no such file")
        if not path.is_file():
            raise ValueError("it is not a regular file, expected an image file")
        return path.open("rb")
    except OSError as error:
        raise ValueError(f"it could not be opened ({error.strerror or type(error).__name__})") from error


def data_uri_bytes(uri: str, max_bytes: int) -> bytes:
    header, comma, payload = uri.partition(",")
    if not comma:
        raise ValueError("it has no comma, expected data:image/<type>;base64,<data>")
    # Three bytes of base64 take four characters, and an escaped byte takes three.
    if len(payload) > 3 * max_bytes:
        raise ValueError(f"it holds more than the limit of {max_bytes} bytes")
    content = unquote_to_bytes(payload)
    return decode_base64(content) if header.lower().endswith(";base64") else content


def decode_base64(encoded: bytes) -> bytes:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding and line breaks.

    Raises:
        ValueError: if it is neither.
    """
    compact = b"".join(encoded.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("its base64 is damaged") from error


def describe_source(source: Any) -> str:
    """Describe an image's source in a few words for messages, without the password and the query of a URL."""
    if isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        if text.lstrip()[:5].lower() == "data:":
            return f"{text.strip()[:22]}... ({len(text)} characters)"
        if SCHEME.match(text.lstrip()):
            text = _without_secrets(text.strip())
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
        values = [source[key] for key in ("path", "bytes") if source.get(key) is not None]
        parts = ["a dict" if isinstance(value, Mapping) else describe_source(value) for value in values]
        return f"dict of {', '.join(parts) or sorted(map(str, source))}"
    return f"{type(source).__name__} object"


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


__all__ = [
    "IMAGE_SOURCES",
    "IMAGE_SUFFIXES",
    "KIND_NAMES",
    "SCHEME",
    "check_allowed_sources",
    "data_uri_bytes",
    "decode_base64",
    "describe_source",
    "file_uri_path",
    "home_expanded",
    "is_binary_file",
    "is_url",
    "looks_like_image_reference",
    "open_file",
    "read_file_object",
    "source_kind",
]
