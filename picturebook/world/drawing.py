"""Images of scenes, 32 x 32 pixels."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .backgrounds import PAINTED
from .scene import PLACES, Scene
from .sprites import SIZE, SPRITES

JITTER = 1

# Column and row of an object's upper left corner when it does not jitter.
CORNERS = {"left": (1, 12), "right": (22, 12), "top": (12, 1), "bottom": (12, 22)}


def draw(scene: Scene, generator: np.random.Generator | None = None) -> np.ndarray:
    """Draw a scene.

    Args:
        scene (`Scene`): What to draw.
        generator (`np.random.Generator`, *optional*): Moves each object by at most one pixel either way; without it
            each stands exactly at its place.

    Returns:
        uint8 `(32, 32, 3)`, RGB.
    """
    offsets = np.zeros((len(PLACES), 2), dtype=int)
    if generator is not None:
        # The same number of random numbers for one object as for two, so that later images do not depend on this one.
        offsets = generator.integers(-JITTER, JITTER + 1, size=offsets.shape)
    image = PAINTED[scene.background].copy()
    for obj in scene.objects:
        put(image, obj.kind, obj.colour, obj.place, offsets[PLACES.index(obj.place)])
    return image


def put(image: np.ndarray, kind: str, colour: str, place: str, offset: Sequence[int] | np.ndarray = (0, 0)) -> None:
    """Put an object into an image at a place, moved by an offset of columns and rows."""
    pixels, covers = SPRITES[kind, colour]
    x, y = CORNERS[place][0] + int(offset[0]), CORNERS[place][1] + int(offset[1])
    image[y : y + SIZE, x : x + SIZE][covers] = pixels[covers]


def png_bytes(image: np.ndarray) -> bytes:
    """A uint8 image of shape `(height, width, 3)` as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def from_images(images: Sequence[Image.Image]) -> np.ndarray:
    """PIL images of one size as uint8 `(num_images, height, width, 3)`."""
    return np.stack([np.asarray(image.convert("RGB")) for image in images])


def to_images(images: Sequence[np.ndarray] | np.ndarray) -> list[Image.Image]:
    """uint8 `(num_images, height, width, 3)` as PIL images."""
    return [Image.fromarray(image) for image in images]


def image_rows(images: Sequence[np.ndarray] | np.ndarray, columns: int) -> list[list[Image.Image]]:
    """Images as rows of a contact sheet, `columns` to a row."""
    return [to_images(images[start : start + columns]) for start in range(0, len(images), columns)]
