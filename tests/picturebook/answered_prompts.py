"""A prompt that was answered both ways, for the tests of what is learnt and told from such answers."""

from picturebook.models.gill_answers import AnsweredBothWays
from picturebook.world.prompts import CAPTION, ImagePrompt
from picturebook.world.scene import Scene, SceneObject

SCENE = Scene((SceneObject("house", "red", "left"),), "night")
ASKED = ImagePrompt("a red house on the left at night", CAPTION, SCENE)


def answered(retrieved: bool, generated: bool, score: float, decided: str) -> AnsweredBothWays:
    return AnsweredBothWays(ASKED, "", retrieved, generated, score, decided)


FOUND = [answered(True, False, 9.0, "retrieve")] * 10
DRAWN = [answered(False, True, 3.0, "generate")] * 20
BOTH = [answered(True, True, 6.0, "generate")] * 10
