"""Recognizes the scene in an image's pixels, or reports that it is not sure; nothing is learned.

The part of the image at each place is compared with every object in every colour, at every jitter, and with none, in
front of the background that is nearest. The nearest by pixel distance is *sure* only if

* its distance is small (`FURTHEST`), which that of blurred and half-drawn objects is not, and
* on the straight line from it to any other answer the image is close to its own end (`FURTHEST_TOWARDS_ANOTHER`), which
  a blend of two answers is not, however small both distances are. Noise hardly moves an image along such a line, so
  this is strict about blends without being strict about noise.

The background is judged in the same way by the part of the image that no object can cover.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from .backgrounds import IMAGE_SIZE, PAINTED
from .drawing import CORNERS, JITTER, put
from .scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, SceneError, SceneObject
from .sprites import SIZE

# Largest root mean square distance, of values from 0 to 1, at a place and for the background. At a place in an image
# that is softened to 30 dB it is 0.06, or 0.08 if objects alone are soft; in one blurred by half a pixel 0.10, by a
# whole pixel 0.21.
FURTHEST = 0.115
FURTHEST_BACKGROUND = 0.08
# 0 is the answer itself, 0.5 the middle between it and another one.
FURTHEST_TOWARDS_ANOTHER = 0.3
NOTHING = -1
ATTRIBUTES = ("background", "places", "kinds", "colours")

_WINDOW = SIZE + 2 * JITTER
_CHUNK = 512


@dataclass(frozen=True)
class Readings:
    """What images show.

    Attributes:
        background: int64 `(num_images,)`, index of the nearest of `BACKGROUNDS`.
        kind, colour: int64 `(num_images, num_places)`, index of the nearest at each of `PLACES`, or `NOTHING`.
        sure_background: bool `(num_images,)`.
        sure_occupied, sure_kind, sure_colour: bool `(num_images, num_places)`: whether it is sure that there is an
            object or none, and which.
    """

    background: np.ndarray
    kind: np.ndarray
    colour: np.ndarray
    sure_background: np.ndarray
    sure_occupied: np.ndarray
    sure_kind: np.ndarray
    sure_colour: np.ndarray

    def scenes(self) -> list[Scene | None]:
        """The scene in each image; `None` where anything is unsure or the objects are no scene."""
        sure = self.sure_background & (self.sure_occupied & self.sure_kind & self.sure_colour).all(axis=1)
        return [self._scene(number) if known else None for number, known in enumerate(sure)]

    def _scene(self, number: int) -> Scene | None:
        objects = tuple(
            SceneObject(KINDS[kind], COLOURS[colour], place)
            for place, kind, colour in zip(PLACES, self.kind[number], self.colour[number], strict=True)
            if kind != NOTHING
        )
        try:
            return Scene(objects, BACKGROUNDS[self.background[number]])
        except SceneError:
            return None


def read(images: np.ndarray | Sequence[np.ndarray]) -> Readings:
    """Read images, some thousands a second.

    Args:
        images: `(num_images, 32, 32, 3)`, uint8, or float from 0 to 1.

    Raises:
        ValueError: another shape, or floats that are not from 0 to 1.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ValueError(f"Images of shape {array.shape}; expected (num_images, {IMAGE_SIZE}, {IMAGE_SIZE}, 3).")
    if array.dtype != np.uint8 and array.size and not (array.min() >= -1e-3 and array.max() <= 1.001):
        raise ValueError(f"Values from {array.min()} to {array.max()}; expected uint8, or floats from 0 to 1.")
    parts = [_read(array[start : start + _CHUNK]) for start in range(0, max(len(array), 1), _CHUNK)]
    return Readings(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def correctness(readings: Readings, scenes: Sequence[Scene]) -> dict[str, np.ndarray]:
    """Whether images show their scenes.

    Returns:
        bool `(num_images,)` each: `scene`, whether everything is right and sure; `background`; `places`, whether the
        right places are taken; `kinds` and `colours`, of all objects at their places. What is unsure is not right.

    Raises:
        ValueError: not one scene for each image.
    """
    if len(scenes) != len(readings.background):
        raise ValueError(f"{len(scenes)} scenes for {len(readings.background)} images.")
    background, kind, colour = truth_of(scenes)
    right = {
        "background": readings.sure_background & (readings.background == background),
        "places": (readings.sure_occupied & ((readings.kind != NOTHING) == (kind != NOTHING))).all(axis=1),
        "kinds": (readings.sure_kind & (readings.kind == kind)).all(axis=1),
        "colours": (readings.sure_colour & (readings.colour == colour)).all(axis=1),
    }
    return {"scene": np.all(list(right.values()), axis=0), **right}


def correct_shares(images: np.ndarray, scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of images that are right, from 0 to 1, by the names of [`correctness`]."""
    return {name: float(np.mean(right)) for name, right in correctness(read(images), scenes).items()}


def truth_of(scenes: Sequence[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scenes as `background`, `kind` and `colour` of [`Readings`]."""
    background = np.array([BACKGROUNDS.index(scene.background) for scene in scenes], dtype=np.int64)
    kind = np.full((len(scenes), len(PLACES)), NOTHING, dtype=np.int64)
    colour = kind.copy()
    for row, scene in enumerate(scenes):
        for obj in scene.objects:
            kind[row, PLACES.index(obj.place)] = KINDS.index(obj.kind)
            colour[row, PLACES.index(obj.place)] = COLOURS.index(obj.colour)
    return background, kind, colour


@dataclass(frozen=True)
class _Answers:
    """What a part of an image may look like.

    Attributes:
        looks: float32 `(num_answers, num_values)`.
        kind, colour: int64 `(num_answers,)`, what each answer stands for.
        between: Squared distances of the answers from each other.
    """

    looks: np.ndarray
    kind: np.ndarray
    colour: np.ndarray
    between: np.ndarray


def _read(images: np.ndarray) -> tuple[np.ndarray, ...]:
    """The columns of [`Readings`]."""
    values = images.astype(np.float32)
    if images.dtype == np.uint8:
        values /= 255
    free, looks, between = _background_answers()
    background, distance, towards = _nearest(values[:, free], looks, between)
    others = np.arange(len(BACKGROUNDS)) != background[:, None]
    sure_background = (distance <= FURTHEST_BACKGROUND) & ~_any_near(towards, others)

    shape = (len(values), len(PLACES))
    kind, colour = np.full(shape, NOTHING, dtype=np.int64), np.full(shape, NOTHING, dtype=np.int64)
    sure_occupied, sure_kind, sure_colour = (np.zeros(shape, dtype=bool) for _ in range(3))
    for name in np.unique(background):
        rows = np.flatnonzero(background == name)
        for column, place in enumerate(PLACES):
            answers = _place_answers(BACKGROUNDS[name], place)
            window = values[rows][(slice(None), *_window(place))]
            best, distance, towards = _nearest(window, answers.looks, answers.between)
            kind[rows, column], colour[rows, column] = answers.kind[best], answers.colour[best]
            for sure, meaning in (
                (sure_occupied, answers.kind == NOTHING),
                (sure_kind, answers.kind),
                (sure_colour, answers.colour),
            ):
                differs = meaning != meaning[best][:, None]
                sure[rows, column] = (distance <= FURTHEST) & ~_any_near(towards, differs)
    return background, kind, colour, sure_background, sure_occupied, sure_kind, sure_colour


def _nearest(values: np.ndarray, looks: np.ndarray, between: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest answer to each of some values, its root mean square distance, and the distance towards others."""
    squared = _squared_distances(values.reshape(len(values), looks.shape[1]), looks)
    best = squared.argmin(axis=1)
    return best, np.sqrt(squared.min(axis=1) / looks.shape[1]), _towards_others(squared, best, between)


def _squared_distances(values: np.ndarray, looks: np.ndarray) -> np.ndarray:
    products = values.astype(np.float64) @ looks.T.astype(np.float64)
    squared = (values.astype(np.float64) ** 2).sum(1)[:, None] + (looks.astype(np.float64) ** 2).sum(1) - 2 * products
    return np.maximum(squared, 0)


def _towards_others(squared: np.ndarray, best: np.ndarray, between: np.ndarray) -> np.ndarray:
    """Where on the line from its best answer (0) to each other one (1) each image is; 0 for the best itself."""
    apart = between[best]
    nearest = np.take_along_axis(squared, best[:, None], axis=1)
    # By the cosine rule. There is no line between two answers that look the same.
    along = 0.5 * (1 - (squared - nearest) / np.maximum(apart, 1e-9))
    along[np.arange(len(best)), best] = 0
    return along


def _any_near(towards: np.ndarray, differs: np.ndarray) -> np.ndarray:
    return np.any(differs & (towards > FURTHEST_TOWARDS_ANOTHER), axis=1)


@cache
def _background_answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    free = np.ones((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
    for place in PLACES:
        free[_window(place)] = False
    looks = np.stack([PAINTED[name][free].reshape(-1) for name in BACKGROUNDS]).astype(np.float32) / 255
    return free, looks, _squared_distances(looks, looks)


@cache
def _place_answers(background: str, place: str) -> _Answers:
    looks, kinds, colours = [PAINTED[background][_window(place)].reshape(-1)], [NOTHING], [NOTHING]
    shifts = range(-JITTER, JITTER + 1)
    for kind, kind_word in enumerate(KINDS):
        for colour, colour_word in enumerate(COLOURS):
            for offset in ((x, y) for x in shifts for y in shifts):
                image = PAINTED[background].copy()
                put(image, kind_word, colour_word, place, offset)
                looks.append(image[_window(place)].reshape(-1))
                kinds.append(kind)
                colours.append(colour)
    array = np.stack(looks).astype(np.float32) / 255
    return _Answers(array, np.array(kinds), np.array(colours), _squared_distances(array, array))


def _window(place: str) -> tuple[slice, slice]:
    x, y = CORNERS[place]
    return slice(max(y - JITTER, 0), y - JITTER + _WINDOW), slice(max(x - JITTER, 0), x - JITTER + _WINDOW)
