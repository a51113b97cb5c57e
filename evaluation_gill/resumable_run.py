"""A run of generations in a folder, that goes on where it was stopped.

progress.json   the protocol, what is finished, and the state of the random numbers after it
images/       one PNG for each finished example
"""

import base64
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .results import write_whole

IMAGES_FOLDER = "images"
_PROGRESS_FILE = "progress.json"


class ResumableRun:
    """Images made so far under one protocol.

    Args:
        folder (`Path`): Where it is; made if need be.
        protocol (`dict`): As in [`Results`], with the system under `"system"`. A run that was begun under another one
            is not gone on with.
        seed (`int`), shared (`bool`): One generator for the whole run, as the authors' code has it, whose state is kept
            between batches; else a fresh one for each example, seeded `seed` plus its number.

    Raises:
        ValueError: the folder holds a run under another protocol, naming what differs; or something else.
    """

    def __init__(self, folder: Path, protocol: dict[str, Any], seed: int, shared: bool) -> None:
        self.folder, self.protocol, self.seed, self.shared = folder, json.loads(json.dumps(protocol)), seed, shared
        self._names: list[str] = []
        self._generator = torch.Generator().manual_seed(seed)
        progress = folder / _PROGRESS_FILE
        if progress.is_file():
            self._go_on(progress)
        (folder / IMAGES_FOLDER).mkdir(parents=True, exist_ok=True)

    @property
    def done(self) -> int:
        """How many examples are finished; they are the first ones."""
        return len(self._names)

    def image(self, number: int) -> Path:
        """The image of a finished example."""
        return self.folder / IMAGES_FOLDER / self._names[number]

    def generators(self, numbers: range) -> list[torch.Generator]:
        """Where the next batch's random numbers come from, one generator for each example."""
        if self.shared:
            return [self._generator] * len(numbers)
        return [torch.Generator().manual_seed(self.seed + number) for number in numbers]

    def finish(self, examples: list[str], images: list[Image.Image]) -> None:
        """Keep a batch's images; it is finished once all of them lie on disk."""
        names = [f"{self.done + offset:06d}-{_file_name(example)}.png" for offset, example in enumerate(examples)]
        for name, image in zip(names, images, strict=True):
            _write_image(self.folder / IMAGES_FOLDER / name, image)
        self._names += names
        state = base64.b64encode(bytes(self._generator.get_state().tolist())).decode()
        content = {"protocol": self.protocol, "pictures": self._names, "generator_state": state}
        write_whole(self.folder / _PROGRESS_FILE, json.dumps(content) + "\n")

    def _go_on(self, progress: Path) -> None:
        try:
            content = json.loads(progress.read_text(encoding="utf-8"))
            before, names, state = content["protocol"], content["pictures"], content["generator_state"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{progress} cannot be gone on with: {error}. Name a new folder.") from error
        differing = sorted(name for name in {*before, *self.protocol} if before.get(name) != self.protocol.get(name))
        if differing:
            told = "; ".join(f"{name} was {before.get(name)!r}, is {self.protocol.get(name)!r}" for name in differing)
            raise ValueError(f"{self.folder} was begun under another protocol: {told}. Name a new folder.")
        missing = [name for name in names if not (self.folder / IMAGES_FOLDER / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} has lost {len(missing)} images that it says are finished, {missing[0]} for one. "
                "Name a new folder."
            )
        self._names = list(names)
        self._generator.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))


def _file_name(example: str) -> str:
    return re.sub(r"[^\w.-]+", "_", example)[:80]


def _write_image(place: Path, image: Image.Image) -> None:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", delete=False) as file:
        file.write(buffer.getvalue())
    os.replace(file.name, place)


__all__ = ["IMAGES_FOLDER", "ResumableRun"]
