"""Files of records as people have them: shards and JSON lists, small."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image


def image_bytes(color: int = 0, size: tuple[int, int] = (12, 10), format: str = "PNG") -> bytes:
    """An image file of one colour, which tells it from others."""
    stream = io.BytesIO()
    Image.new("RGB", size, (color, 255 - color, 90)).save(stream, format)
    return stream.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes | str | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar with these files; a `TarInfo` is written as it is, without content."""
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def pair_shard(path: Path, numbers: range) -> Path:
    """A shard of pairs whose captions are these numbers."""
    files: dict[str, bytes | str | tarfile.TarInfo] = {}
    for number in numbers:
        files |= {f"{number:04d}.png": image_bytes(number % 256), f"{number:04d}.txt": f"number {number}"}
    return write_tar(path, files)


def chat(number: int) -> dict[str, Any]:
    """A conversation without an image."""
    return {"conversations": [{"from": "human", "value": f"question {number}"}, {"from": "gpt", "value": "yes"}]}


def caption_number(example: Mapping[str, Any]) -> int:
    """The number of an example of [`pair_shard`] or [`chat`]."""
    record = example["record"]
    text = record.caption if hasattr(record, "caption") else record.turns[0].text
    return int(text.split()[1])
