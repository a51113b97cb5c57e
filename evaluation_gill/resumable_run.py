"""A run that generates images into a folder and can be resumed.

progress.json   the protocol, the finished examples, and the state of the random generator after them
images/         one PNG for each finished example
documents/      of a task whose examples are answered with texts and several images, one JSON for each in place of that
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from modeling_gill.atomic_write_gill import replace_file
from pipeline_gill.caption_files import read_json

from .results import write_text

IMAGES_FOLDER = "images"
_PROGRESS_FILE = "progress.json"


class ResumableRun:
    """Images generated so far under one protocol.

    Args:
        folder (`Path`): The folder; created if it does not exist.
        protocol (`dict`): As in [`Results`], with the system under `"system"`.
        seed (`int`): Seed of the noise.
        shared (`bool`):
            Whether one random generator serves the whole run, as in the authors' code; its state is kept between
            batches. Else each example has a new one, seeded with `seed` plus its number.

    Raises:
        ValueError: the folder holds a run under another protocol, naming what differs, or something else.
    """

    answers_folder = IMAGES_FOLDER

    def __init__(self, folder: Path, protocol: dict[str, Any], seed: int, shared: bool) -> None:
        self.folder, self.protocol, self.seed, self.shared = folder, json.loads(json.dumps(protocol)), seed, shared
        self._names: list[str] = []
        self._generator = torch.Generator().manual_seed(seed)
        progress = folder / _PROGRESS_FILE
        if progress.is_file():
            self._resume(progress)
        for name in {IMAGES_FOLDER, self.answers_folder}:
            (folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def done(self) -> int:
        """Number of finished examples; they are the first ones."""
        return len(self._names)

    def image(self, number: int) -> Path:
        """The image of a finished example."""
        return self.folder / IMAGES_FOLDER / self._names[number]

    def generators(self, numbers: range) -> list[torch.Generator]:
        """A random generator for each example of the next batch."""
        if self.shared:
            return [self._generator] * len(numbers)
        return [torch.Generator().manual_seed(self.seed + number) for number in numbers]

    def finish(self, examples: list[str], answers: Sequence[Any]) -> None:
        """Store what was made for a batch, an image for each example; it is finished once all of it is on disk."""
        stems = [f"{self.done + offset:06d}-{_file_name(example)}" for offset, example in enumerate(examples)]
        self._names += [self._store(stem, answer) for stem, answer in zip(stems, answers, strict=True)]
        state = base64.b64encode(bytes(self._generator.get_state().tolist())).decode()
        content = {"protocol": self.protocol, "pictures": self._names, "generator_state": state}
        write_text(self.folder / _PROGRESS_FILE, json.dumps(content) + "\n")

    def _store(self, stem: str, answer: Any) -> str:
        """Write what was made for an example. Returns the name of the file that tells that it is there."""
        return self._store_image(f"{stem}.png", answer)

    def _store_image(self, name: str, image: Image.Image) -> str:
        with replace_file(self.folder / IMAGES_FOLDER / name) as new:
            image.save(new, format="PNG")
        return name

    def _resume(self, progress: Path) -> None:
        try:
            content = json.loads(progress.read_text(encoding="utf-8"))
            before, names, state = content["protocol"], content["pictures"], content["generator_state"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{progress} cannot be resumed: {error}. Choose a new folder.") from error
        differing = sorted(name for name in {*before, *self.protocol} if before.get(name) != self.protocol.get(name))
        if differing:
            changes = "; ".join(
                f"{name} was {before.get(name)!r}, is {self.protocol.get(name)!r}" for name in differing
            )
            raise ValueError(f"{self.folder} was begun under another protocol: {changes}. Choose a new folder.")
        missing = [name for name in names if not (self.folder / self.answers_folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing)} {self.answers_folder} that its progress file lists as finished, "
                f"{missing[0]} for one. Choose a new folder."
            )
        self._names = list(names)
        self._generator.set_state(torch.frombuffer(bytearray(base64.b64decode(state)), dtype=torch.uint8))


class ResumableDocuments(ResumableRun):
    """A run whose examples are answered with texts and images in turn. It is given a list of them for each example."""

    answers_folder = "documents"

    def answer(self, number: int) -> list[str | Path]:
        """Texts, and paths of images, of a finished example.

        Raises:
            ValueError: its file, or an image of it, is not there or was changed.
        """
        path = self.folder / self.answers_folder / self._names[number]
        pieces = read_json(path)
        try:
            found = [piece["text"] if "text" in piece else self._image_file(piece["image"]) for piece in pieces]
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path} is no answer that this run has written: {error!r}.") from error
        missing = [piece for piece in found if isinstance(piece, Path) and not piece.is_file()]
        if missing:
            raise ValueError(f"{path} names the image {missing[0].name}, which is not there. Choose a new folder.")
        return found

    def _image_file(self, name: str) -> Path:
        return self.folder / IMAGES_FOLDER / Path(name).name

    def _store(self, stem: str, answer: Sequence[str | Image.Image]) -> str:
        pieces = []
        for number, piece in enumerate(answer):
            if isinstance(piece, str):
                pieces.append({"text": piece})
            else:
                pieces.append({"image": self._store_image(f"{stem}-{number}.png", piece)})
        text = json.dumps(pieces, indent=1, ensure_ascii=False) + "\n"
        write_text(self.folder / self.answers_folder / f"{stem}.json", text)
        return f"{stem}.json"


def _file_name(example: str) -> str:
    return re.sub(r"[^\w.-]+", "_", example, flags=re.ASCII)[:80]


__all__ = ["IMAGES_FOLDER", "ResumableDocuments", "ResumableRun"]
