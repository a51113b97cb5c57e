"""A model of no weight that sees colours, images in plain colours, and a server of images that misbehaves."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from modeling_gill.fingerprint_gill import fingerprint_weights
from pipeline_gill.retrieval_set_gill import RetrievalSet

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
RED = torch.tensor([1.0, 0.0, 0.0])


class TinyModel:
    """Embeds an image as three times its mean colour."""

    training = False

    def __init__(self, seed: int = 0) -> None:
        self.weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
        self.batches: list[int] = []

    def get_image_retrieval_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(pixel_values))
        return 3 * pixel_values.mean((2, 3))

    def retrieval_fingerprint(self) -> dict[str, Any]:
        return fingerprint_weights({"weight": [self.weight]})

    def to(self, _: Any) -> "TinyModel":
        return self


def tiny_image_processor(images: list[Image.Image], return_tensors: str) -> dict[str, torch.Tensor]:
    small = [torch.from_numpy(np.array(image.resize((2, 2)))).permute(2, 0, 1) / 255 for image in images]
    return {"pixel_values": torch.stack(small)}


TINY_PROCESSOR = SimpleNamespace(image_processor=tiny_image_processor)
FINGERPRINT = TinyModel().retrieval_fingerprint()


def paint(folder: Path) -> Path:
    """Make a folder of four images in plain colours: blue, green, red, white by name."""
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (6, 4), colour).save(folder / f"{name}.png")
    return folder


def build(folder: Path, **options: Any) -> RetrievalSet:
    images = [(path, path.stem) for path in sorted(folder.iterdir())]
    return RetrievalSet.build(TinyModel(), TINY_PROCESSOR, images, base_dir=folder, progress=False, **options)


def ranked_set(paths: list[str], base_dir: Path | None = None) -> RetrievalSet:
    """The nearer to RED the earlier in the list."""
    angles = np.linspace(0, 1, len(paths))
    embeddings = np.stack([np.cos(angles), np.sin(angles), 0 * angles], 1)
    return RetrievalSet.from_embeddings(paths, embeddings, FINGERPRINT, base_dir=base_dir)


def colour_of(image: Any) -> str:
    return {value: name for name, value in COLOURS.items()}[image.image.getpixel((0, 0))]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/slow"):
            self.server.stopped.wait(20)  # type: ignore[attr-defined]
            return
        content = self.server.image if self.path.startswith("/red") else b""  # type: ignore[attr-defined]
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def image_server(image: bytes) -> Iterator[Any]:
    """A server at `url` that has `image` at /red..., never answers at /slow..., has nothing else, and notes in
    `asked` what it was asked for."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        held: Any = running
        held.stopped, held.asked, held.image = threading.Event(), [], image
        held.url = f"http://127.0.0.1:{running.server_address[1]}"
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield held
        held.stopped.set()
        running.shutdown()
