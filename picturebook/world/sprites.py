"""The objects of the world as pixel art, and the colours they come in.

One character a pixel: `.` nothing, `#` outline, `o` the object's colour, `+` its light shade, `-` its dark shade;
`w` white, `y` lamplight, `b` wood, `c` cream, `g` glass are the same whatever the object's colour.
"""

import numpy as np

from .scene import COLOURS, KINDS

SIZE = 9

_DRAWN = {
    "house": """
        ......##.
        ...##.##.
        ..#+o###.
        .#+ooo-#.
        #+ooooo-#
        #########
        .#cc#bb#.
        .#yc#bb#.
        .#######.
    """,
    "boat": """
        ....##...
        ...#+#...
        ..#+o#w#.
        .#+oo#ww#
        #+ooo#ww#
        #########
        #ooooooo#
        .#-ooo-#.
        ..#####..
    """,
    "tree": """
        ....#....
        ...#+#...
        ..#+o-#..
        .#+ooo-#.
        ..#+o-#..
        .#+ooo-#.
        #+ooooo-#
        ####b####
        ...#b#...
    """,
    "fish": """
        .........
        ..####.##
        .#++oo#o#
        #+oooooo#
        #ow#o-o#.
        #oooo-oo#
        .#---o#o#
        ..####.##
        .........
    """,
    "car": """
        .........
        ..#####..
        .#gg#gg#.
        .#gg#gg##
        #++ooooo#
        #ooooooy#
        ####-####
        .#w#.#w#.
        .###.###.
    """,
    "cat": """
        ##.....##
        #o#...#o#
        #oo###oo#
        #+ooooo-#
        #+#ooo#-#
        #ooowooo#
        #-ow#wo-#
        .##www##.
        ...###...
    """,
    "mushroom": """
        ...###...
        .##+oo##.
        #+owoowo#
        #oooooow#
        #woowoo-#
        .#######.
        ..#cyc#..
        ..#ccc#..
        ...###...
    """,
    "balloon": """
        ..#####..
        .#o+w-o#.
        #oo+w-oo#
        #oo+w-oo#
        .#o+w-o#.
        ..#+w-#..
        ...#.#...
        ...###...
        ...#b#...
    """,
}

OUTLINE = (30, 24, 44)

# Far apart from each other and from every background, which a test checks.
BODY = {
    "red": (218, 38, 42),
    "yellow": (255, 213, 46),
    "green": (32, 150, 66),
    "blue": (42, 86, 226),
    "purple": (150, 36, 186),
    "pink": (255, 136, 190),
}

_FIXED = {
    "#": OUTLINE,
    "w": (255, 255, 255),
    "y": (255, 226, 120),
    "b": (146, 92, 52),
    "c": (250, 236, 208),
    "g": (196, 232, 250),
}


def sprite(kind: str, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """An object by itself: pixels, uint8 `(9, 9, 3)`, and which of them are opaque, bool `(9, 9)`.

    Raises:
        KeyError: no such kind or colour.
    """
    body = np.array(BODY[colour], dtype=np.float64)
    shades = {"o": body, "+": body + 0.45 * (255 - body), "-": 0.72 * body}
    palette = {**{name: np.array(rgb, dtype=np.float64) for name, rgb in _FIXED.items()}, **shades}
    rows = _DRAWN[kind].split()
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    covers = np.zeros((SIZE, SIZE), dtype=bool)
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            if character != ".":
                pixels[y, x] = np.round(palette[character])
                covers[y, x] = True
    return pixels, covers


SPRITES = {(kind, colour): sprite(kind, colour) for kind in KINDS for colour in COLOURS}
