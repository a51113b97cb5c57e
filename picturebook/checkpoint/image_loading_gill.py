"""Open an image from memory, a file, a URL or a `data:` URI, within limits."""

import contextlib
import io
import os
import re
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from .image_conversion_gill import array_to_rgb, check_size, image_to_rgb
from .image_sources_gill import (
    IMAGE_SOURCES,
    KIND_NAMES,
    SCHEME,
    check_allowed_sources,
    data_uri_bytes,
    describe_source,
    file_uri_path,
    is_binary_file,
    open_file,
    read_file_object,
    source_kind,
)
from .url_fetching_gill import fetch_url

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 64_000_000
# What photographs and drawings come in. Pillow knows thirty more formats, among them wrappers of other files, programs
# (EPS, which Ghostscript runs) and decoders that take minutes; HEIF needs the package pillow-heif.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")

_MIME_TYPE = re.compile(r"(application|audio|font|image|text|video)/[\w.+-]{1,40}")
# A progressive JPEG decodes all of its pixels once a scan; cameras and encoders write about ten.
_MAX_JPEG_SCANS = 100
# Markers of a JPEG file besides stuffed bytes, restarts and fill bytes.
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")


class ImageError(ValueError):
    """An image that could not be read. The message names the image, what is wrong and what was expected."""


@dataclass(frozen=True)
class ImageLimits:
    """Limits on the images of one call, such as of a processor or a pipeline.

    The defaults suit a program whose prompts come from its own user. For a server, whose prompts come from strangers,
    limit the sources as well, and choose numbers that fit one visitor's share of the machine:

    ```python
    processor.allowed_image_sources = ("memory", "data", "public_url")
    processor.image_limits = ImageLimits(
        max_images=8, max_pixels=20_000_000, max_total_pixels=60_000_000, timeout=5.0, max_total_seconds=15.0
    )
    ```

    Args:
        max_images (`int`): Images of a call.
        max_bytes (`int`): Bytes of one image file that comes from a URL, a `data:` URI or memory.
        max_pixels (`int`): Width times height of one image; files are refused before they are decoded.
            `PIL.Image.MAX_IMAGE_PIXELS` is a limit too.
        timeout (`float`): Seconds for one image: to fetch it, and to decode it. Checked between blocks of the file.
        max_total_bytes, max_total_pixels, max_total_seconds:
            The same for all files and URLs of a call together. Images that are in memory already do not count.
    """

    max_images: int = 1000
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    timeout: float = 10.0
    max_total_bytes: int = 16 * MAX_BYTES
    max_total_pixels: int = 16 * MAX_PIXELS
    max_total_seconds: float = 120.0


def load_image(
    source: Any,
    *,
    timeout: float = 10.0,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    allowed_sources: Collection[str] = IMAGE_SOURCES,
) -> Image.Image:
    """Open an image as a new 8-bit RGB image.

    Transparent areas become white, the EXIF orientation is applied, and of an animation the first frame is taken.

    Args:
        source: A PIL image of any mode; a numpy array or torch tensor, uint8 or float in [0, 1], of shape
            `(height, width)`, `(height, width, channels)` or `(channels, height, width)` with 1, 3 or 4 channels; a
            path; an http(s), `file:` or `data:` URI; the bytes of an image file or a binary file object that holds
            them; or a dict with `bytes` or `path` as `datasets` gives it.
        timeout (`float`, defaults to 10.0): Seconds to fetch a URL and to decode the image.
        max_bytes (`int`, *optional*): Limit on the bytes of a URL, a `data:` URI or a file in memory.
        max_pixels (`int`, *optional*): Limit on width times height. Files are refused before they are decoded.
        allowed_sources (`Collection[str]`, *optional*, defaults to all):
            Where the image may come from: `"memory"` (image, array, tensor, bytes), `"data"` (`data:` URI),
            `"public_url"` (http(s) on the public internet; every address is checked, after each redirect too),
            `"url"` (http(s) anywhere) and `"file"`.

    Returns:
        `PIL.Image.Image`: Mode RGB, sharing no memory with `source`.

    Raises:
        ImageError: If there is no image, no whole one, one beyond the limits or from a source that is not allowed.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_gill.image_loading_gill import load_image
    >>> load_image(np.zeros((2, 3), dtype=np.uint8)).size
    (3, 2)
    ```
    """
    limits = ImageLimits(timeout=timeout, max_bytes=max_bytes, max_pixels=max_pixels, max_total_bytes=max_bytes)
    return ImageReader(limits, allowed_sources).read(source)


def load_image_and_file(
    source: Any,
    *,
    timeout: float = 10.0,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    allowed_sources: Collection[str] = IMAGE_SOURCES,
) -> tuple[Image.Image, bytes | None]:
    """As [`load_image`], with the bytes of the image file, or `None` for an image that never was a file."""
    limits = ImageLimits(timeout=timeout, max_bytes=max_bytes, max_pixels=max_pixels, max_total_bytes=max_bytes)
    return ImageReader(limits, allowed_sources).read_with_file(source)


class ImageReader:
    """Reads the images of one call, within limits for each and for all of them together.

    Args:
        limits ([`ImageLimits`], *optional*): The limits.
        allowed_sources (`Collection[str]`, *optional*): See [`load_image`].

    Raises:
        ValueError: for a kind of source that there is not.
    """

    def __init__(self, limits: ImageLimits | None = None, allowed_sources: Collection[str] = IMAGE_SOURCES) -> None:
        self.limits = limits or ImageLimits()
        self.allowed_sources = check_allowed_sources(allowed_sources)
        self._images = self._bytes = self._pixels = 0
        self._seconds = 0.0
        self._deadline = 0.0

    def read(self, source: Any) -> Image.Image:
        """Read one image, see [`load_image`]."""
        return self._read(source, keep=False)[0]

    def read_with_file(self, source: Any) -> tuple[Image.Image, bytes | None]:
        """Read one image, see [`load_image_and_file`]."""
        return self._read(source, keep=True)

    def _read(self, source: Any, *, keep: bool) -> tuple[Image.Image, bytes | None]:
        started = time.monotonic()
        remaining = self.limits.max_total_seconds - self._seconds
        self._deadline = started + min(self.limits.timeout, remaining)
        try:
            self._images += 1
            self._check_total("images", self._images, self.limits.max_images)
            if remaining <= 0:
                raise ValueError(
                    f"reading the images before it took {self._seconds:.0f} s, which is the limit of a call"
                )
            kind = source_kind(source)
            self._check_allowed(kind)
            if isinstance(source, np.ndarray | torch.Tensor):
                return array_to_rgb(source, self.limits.max_pixels), None
            if isinstance(source, Image.Image):
                return self._decode(source), None
            stream, content_type = self._open(source)
            with stream:
                image = self._decode_stream(stream, content_type)
                stream.seek(0)
                return image, stream.read() if keep else None
        except (ValueError, OSError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"Image could not be read: {describe_source(source)}: {error}") from error
        finally:
            self._seconds += time.monotonic() - started

    def _check_allowed(self, kind: str) -> None:
        if kind in self.allowed_sources or (kind == "url" and "public_url" in self.allowed_sources):
            return
        allowed = ", ".join(self.allowed_sources) or "none"
        raise ValueError(f"its source is {KIND_NAMES[kind]}, and the allowed image sources are: {allowed}")

    @staticmethod
    def _check_total(what: str, total: int, limit: int) -> None:
        if total > limit:
            raise ValueError(f"with it the call has {total:,} {what}, more than the limit of {limit:,} of a call")

    def _open(self, source: Any) -> tuple[BinaryIO, str]:
        """A stream of the file's bytes, and the content type where a server gave one."""
        if isinstance(source, Mapping):
            return self._open(source["bytes"] if source.get("bytes") is not None else source["path"])
        if isinstance(source, bytes | bytearray | memoryview):
            return self._in_memory(bytes(source)), ""
        if is_binary_file(source):
            return self._in_memory(read_file_object(source, self.limits.max_bytes)), ""
        if isinstance(source, os.PathLike):
            return open_file(Path(os.fsdecode(source))), ""
        text = source.strip()
        if text[:5].lower() == "data:":
            return self._in_memory(data_uri_bytes(text, self.limits.max_bytes)), ""
        if text[:7].lower() == "file://":
            return open_file(file_uri_path(text)), ""
        if scheme := SCHEME.match(text):
            if scheme[1].lower() not in ("http", "https"):
                raise ValueError(f"its scheme is {scheme[1][:20]!r}, expected http, https, file, data or a path")
            body, content_type = fetch_url(
                text,
                timeout=self._deadline - time.monotonic(),
                max_bytes=min(self.limits.max_bytes, self.limits.max_total_bytes - self._bytes),
                public_only="url" not in self.allowed_sources,
            )
            return self._in_memory(body), content_type
        return open_file(Path(source)), ""

    def _in_memory(self, content: bytes) -> BinaryIO:
        if len(content) > self.limits.max_bytes:
            raise ValueError(f"it holds {len(content)} bytes, more than the limit of {self.limits.max_bytes}")
        self._bytes += len(content)
        self._check_total("bytes of images", self._bytes, self.limits.max_total_bytes)
        return io.BytesIO(content)

    def _decode_stream(self, stream: BinaryIO, content_type: str) -> Image.Image:
        if not stream.read(1):
            raise ValueError("it is empty (0 bytes), expected an image file")
        stream.seek(0)
        Image.init()
        try:
            with _whole_images_only():  # some formats are decoded as soon as they are opened
                image = Image.open(
                    _TimedStream(stream, self._deadline),  # type: ignore[arg-type]
                    formats=[name for name in IMAGE_FORMATS if name in Image.OPEN],
                )
        except UnidentifiedImageError as error:
            served = f" (it was served as {mime[0]})" if (mime := _MIME_TYPE.match(content_type)) else ""
            known = ", ".join(IMAGE_FORMATS)
            raise ValueError(f"it is not a whole image of a known format{served}; expected one of {known}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError("it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS` allows") from error
        except TimeoutError as error:
            raise ValueError(str(error)) from error
        except Exception as error:
            raise ValueError("it is truncated or damaged") from error
        with image:
            check_size(image.width, image.height, self.limits.max_pixels)
            self._pixels += image.width * image.height
            self._check_total("pixels", self._pixels, self.limits.max_total_pixels)
            _check_scans(image, stream)
            return self._decode(image)

    def _decode(self, image: Image.Image) -> Image.Image:
        check_size(image.width, image.height, self.limits.max_pixels)
        if isinstance(image, ImageFile.ImageFile) and image.tile and image.format not in IMAGE_FORMATS:
            raise ValueError(f"its format is {image.format}, expected one of {', '.join(IMAGE_FORMATS)}")
        try:
            with _whole_images_only():
                image.load()
        except TimeoutError as error:
            raise ValueError(str(error)) from error
        except Exception as error:  # Pillow's decoders raise most of what Python has for a damaged file
            if isinstance(image, ImageFile.ImageFile):
                # Pillow would take the part that was decoded for the whole at the next attempt.
                image.im = None  # type: ignore[assignment]
            raise ValueError("it is truncated or damaged") from error
        # Some formats give another size in their header.
        check_size(image.width, image.height, self.limits.max_pixels)
        try:
            return image_to_rgb(image)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"its mode {image.mode} cannot be converted to RGB") from error


class _TimedStream:
    """What Pillow reads of a binary stream, until a deadline."""

    def __init__(self, stream: BinaryIO, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close

    def read(self, size: int = -1) -> bytes:
        self._check_time()
        return self._stream.read(size)

    def readline(self, size: int = -1) -> bytes:
        self._check_time()
        return self._stream.readline(size)

    def _check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise TimeoutError("it could not be decoded in time")


def _check_scans(image: Image.Image, stream: BinaryIO) -> None:
    """Refuse JPEG data with so many scans that decoding it takes minutes."""
    strips = 0
    if image.format == "TIFF" and image.tag_v2.get(259) in (6, 7):  # type: ignore[attr-defined]
        tags = image.tag_v2  # type: ignore[attr-defined]
        strips = len(tags.get(273) or tags.get(324) or ())
    elif image.format not in ("JPEG", "MPO"):
        return
    position = stream.tell()
    stream.seek(0)
    content = stream.read()
    stream.seek(position)
    scans = content.count(b"\xff\xda") - strips if strips else _count_scans(content)
    if scans > _MAX_JPEG_SCANS:
        raise ValueError(f"its JPEG data has more than {_MAX_JPEG_SCANS} scans, expected about ten")


def _count_scans(content: bytes) -> int:
    scans, position = 0, 2
    while (marker := _JPEG_MARKER.search(content, position)) and scans <= _MAX_JPEG_SCANS:
        kind = marker[0][1]
        if kind == 0xD9:  # end of the image; phones append videos after it
            break
        scans += kind == 0xDA
        position = marker.end()
        position += 0 if kind == 0xD8 else max(2, int.from_bytes(content[position : position + 2], "big"))
    return scans


_decoding = threading.Lock()
_decoders = 0
_allowed_before = False


@contextlib.contextmanager
def _whole_images_only() -> Iterator[None]:
    """Switch Pillow's global flag off that fills the missing part of a truncated file with grey.

    Decoders in several threads share the flag: the first one switches it off and the last one restores it.
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


__all__ = [
    "IMAGE_FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "ImageError",
    "ImageLimits",
    "ImageReader",
    "load_image",
    "load_image_and_file",
]
