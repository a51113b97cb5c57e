"""Pictures of scenes, 32 x 32 pixels."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .backgrounds import PAINTED, PICTURE_SIZE
from .scene import PLACES, Scene
from .sprites import SIZE, SPRITES

JITTER = 1

# Column and row of a thing's upper left corner when it does not jitter.
CORNERS = {"left": (1, 12), "right": (22, 12), "top": (12, 1), "bottom": (12, 22)}


def draw(scene: Scene, generator: np.random.Generator | None = None) -> np.ndarray:
    """Draw a scene.

    Args:
        scene (`Scene`): What to draw.
        generator (`np.random.Generator`, *optional*): Moves each thing by at most one pixel either way; without it
            each stands exactly at its place.

    Returns:
        uint8 `(32, 32, 3)`, RGB.
    """
    offsets = np.zeros((len(PLACES), 2), dtype=int)
    if generator is not None:
        # As many numbers for one thing as for two: pictures drawn later do not depend on what was drawn before.
        offsets = generator.integers(-JITTER, JITTER + 1, size=offsets.shape)
    picture = PAINTED[scene.background].copy()
    for thing in scene.things:
        put(picture, thing.kind, thing.colour, thing.place, offsets[PLACES.index(thing.place)])
    return picture


def put(picture: np.ndarray, kind: str, colour: str, place: str, offset: Sequence[int] | np.ndarray = (0, 0)) -> None:
    """Put a thing into a picture at a place, moved by an offset of columns and rows."""
    pixels, covers = SPRITES[kind, colour]
    x, y = CORNERS[place][0] + int(offset[0]), CORNERS[place][1] + int(offset[1])
    picture[y : y + SIZE, x : x + SIZE][covers] = pixels[covers]


def enlarge(picture: np.ndarray, factor: int = 8) -> Image.Image:
    """Enlarge by a whole factor without smoothing.

    Args:
        picture: uint8 `(height, width, 3)`.
    """
    return Image.fromarray(np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1))


def contact_sheet(pictures: Sequence[np.ndarray], columns: int, factor: int = 4, gap: int = 2) -> Image.Image:
    """All pictures side by side, row by row, enlarged.

    Args:
        pictures: uint8 `(32, 32, 3)` each; at least one.
        columns (`int`): In a row.
        factor (`int`): Of enlargement.
        gap (`int`): Between pictures, in pixels of the small pictures.
    """
    step = PICTURE_SIZE + gap
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * step + gap, columns * step + gap, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        y, x = (gap + step * at for at in divmod(number, columns))
        sheet[y : y + PICTURE_SIZE, x : x + PICTURE_SIZE] = picture
    return enlarge(sheet, factor)


def png_bytes(picture: np.ndarray, factor: int = 1) -> bytes:
    """A picture as a PNG file, enlarged without smoothing."""
    file = io.BytesIO()
    enlarge(picture, factor).save(file, "PNG")
    return file.getvalue()


def data_uri(picture: np.ndarray) -> str:
    """A picture as the `src` of a page that everything is inside of."""
    return f"data:image/png;base64,{base64.b64encode(png_bytes(picture)).decode()}"


__all__ = ["CORNERS", "JITTER", "contact_sheet", "data_uri", "draw", "enlarge", "png_bytes", "put"]
