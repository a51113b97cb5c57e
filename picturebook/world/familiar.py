"""Scenes that the weakest of models are shown most of the time: one house, in one of two colours, wherever it stands.

In minutes nobody learns to draw eight kinds in six colours so sharply that they are right. A few scenes can be learnt,
some of them ordinary and some not; so there is something for a decision to be learnt from.
"""

from itertools import product

from .scene import BACKGROUNDS, PLACES, Scene, Thing

FAMILIAR_KIND = "house"
_COLOURS = ("green", "pink")

FAMILIAR = tuple(
    Scene((Thing(FAMILIAR_KIND, colour, place),), name)
    for colour, place, name in product(_COLOURS, PLACES, BACKGROUNDS)
)
