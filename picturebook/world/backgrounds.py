"""The four backgrounds. Objects are left, right, top and bottom, so details are in the corners and the middle."""

import numpy as np

from .scene import BACKGROUNDS

IMAGE_SIZE = 32

_Colour = tuple[int, int, int]


def background(name: str) -> np.ndarray:
    """A background by itself, uint8 `(32, 32, 3)`.

    Raises:
        KeyError: no such background.
    """
    return _PAINTERS[name]()


def _day() -> np.ndarray:
    image = _sky((150, 214, 250), (206, 236, 250), 20)
    _disc(image, 27, 4, 3, (255, 236, 120))
    _dots(image, [(27, 0), (31, 4), (23, 4), (24, 1), (30, 7), (24, 7)], (255, 236, 120))
    _cloud(image, 2, 4, (255, 255, 255))
    _hills(image, [(5, 9, 23), (27, 10, 22)], (166, 214, 128), (206, 232, 130), 22)
    for x, y, petals in (
        (3, 27, (255, 255, 255)),
        (8, 29, (255, 250, 190)),
        (24, 28, (255, 255, 255)),
        (29, 26, (255, 250, 190)),
        (27, 30, (255, 255, 255)),
    ):
        _flower(image, x, y, petals)
    return image


def _night() -> np.ndarray:
    image = _sky((38, 42, 92), (74, 72, 134), 24)
    moon = ("..##.", ".##..", "##...", "##...", "###.#", ".####", "..##.")
    lit = [(24 + x, 2 + y) for y, row in enumerate(moon) for x, pixel in enumerate(row) if pixel == "#"]
    _dots(image, lit, (250, 242, 200))
    stars = [(2, 2), (6, 5), (9, 1), (3, 9), (30, 2), (30, 10), (15, 14), (18, 17), (13, 19), (23, 9), (8, 8)]
    _dots(image, stars, (255, 250, 214))
    _dots(image, [(5, 1), (0, 6), (25, 10), (16, 18), (20, 13)], (150, 150, 206))
    _hills(image, [(6, 9, 26), (26, 11, 25)], (52, 60, 96), (42, 50, 84), 26)
    _dots(image, [(4, 28), (5, 28), (27, 28), (28, 28)], (255, 214, 110))
    return image


def _sea() -> np.ndarray:
    image = _sky((255, 222, 176), (255, 240, 206), 12)
    _disc(image, 5, 11, 4, (255, 176, 120))
    for y in range(12, IMAGE_SIZE):
        share = (y - 12) / 20
        image[y] = np.round((1 - share) * np.array((104, 208, 206)) + share * np.array((44, 150, 170)))
    for y, start in ((12, 0), (15, 3), (19, 0), (23, 4), (27, 1), (30, 5)):
        for x in range(start, IMAGE_SIZE, 7):
            image[y, x : x + 3] = (198, 244, 236)
            image[max(y - 1, 12), x + 3 : x + 4] = (198, 244, 236)
    for x, y in ((25, 4), (29, 7)):
        _dots(image, [(x - 2, y - 1), (x - 1, y), (x, y - 1), (x + 1, y), (x + 2, y - 1)], (120, 110, 130))
    return image


def _snow() -> np.ndarray:
    image = _sky((168, 176, 200), (204, 208, 224), 22)
    _hills(image, [(4, 10, 22), (27, 9, 21)], (226, 230, 240), (244, 247, 252), 24)
    _snowman(image, 5, 25)
    flakes = [
        (1, 1),
        (5, 4),
        (9, 2),
        (2, 8),
        (7, 8),
        (22, 1),
        (26, 3),
        (30, 1),
        (24, 7),
        (29, 8),
        (14, 13),
        (17, 16),
        (19, 13),
        (13, 18),
        (10, 10),
        (21, 20),
    ]
    _dots(image, flakes, (255, 255, 255))
    _dots(image, [(5, 28), (9, 30), (24, 29), (29, 30), (2, 30)], (206, 214, 234))
    return image


def _sky(top: _Colour, low: _Colour, rows: int) -> np.ndarray:
    share = np.clip(np.arange(IMAGE_SIZE) / rows, 0, 1)[:, None]
    column = (1 - share) * np.array(top) + share * np.array(low)
    # Bands of two rows: pixel art has no smooth gradients.
    column = np.round(column[(np.arange(IMAGE_SIZE) // 4) * 4]).astype(np.uint8)
    return np.repeat(column[:, None, :], IMAGE_SIZE, axis=1)


def _hills(image: np.ndarray, mounds: list[tuple[int, int, int]], back: _Colour, front: _Colour, horizon: int) -> None:
    ys, xs = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    for x, width, top in mounds:
        image[ys >= top + (xs - x) ** 2 * 4 / width**2] = back
    image[ys >= horizon + 1 + np.round(np.sin(xs / 5))] = front


def _disc(image: np.ndarray, x: int, y: int, radius: int, colour: _Colour) -> None:
    ys, xs = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    image[(xs - x) ** 2 + (ys - y) ** 2 <= radius**2 + 0.5] = colour


def _dots(image: np.ndarray, points: list[tuple[int, int]], colour: _Colour) -> None:
    for x, y in points:
        image[y, x] = colour


def _cloud(image: np.ndarray, x: int, y: int, colour: _Colour) -> None:
    image[y, x + 2 : x + 5] = colour
    image[y + 1, x : x + 7] = colour
    image[y + 2, x : x + 8] = (232, 244, 252)


def _flower(image: np.ndarray, x: int, y: int, petals: _Colour) -> None:
    _dots(image, [(x - 1, y), (x + 1, y), (x, y - 1), (x, y + 1 if y + 1 < IMAGE_SIZE else y - 1)], petals)
    _dots(image, [(x, y)], (240, 150, 60))


def _snowman(image: np.ndarray, x: int, y: int) -> None:
    for at, radius in ((y + 3, 2), (y, 1)):
        _disc(image, x, at, radius, (255, 255, 255))
    beside = [(2, 0), (2, 1), (3, 3), (2, 5), (1, 6), (0, 6)]
    _dots(image, [(x + side * across, y + down) for across, down in beside for side in (-1, 1)], (178, 186, 212))
    _dots(image, [(x - 1, y - 2), (x, y - 2), (x + 1, y - 2), (x, y - 3), (x, y + 2), (x, y + 4)], (70, 74, 98))
    _dots(image, [(x + 1, y)], (240, 140, 60))


_PAINTERS = {"day": _day, "night": _night, "sea": _sea, "snow": _snow}

PAINTED = {name: background(name) for name in BACKGROUNDS}
