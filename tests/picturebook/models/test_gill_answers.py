"""What GILL answers is judged by the whole scene."""

from picturebook.models.gill_answers import AnsweredBothWays, judge
from picturebook.world.drawing import draw, to_images
from picturebook.world.prompts import CAPTION, ImagePrompt
from picturebook.world.scene import Scene, SceneObject
from pipeline_gill import GillImage

SCENE = Scene((SceneObject("house", "red", "left"),), "night")


ASKED = ImagePrompt("a red house on the left at night", CAPTION, SCENE)


def answered(retrieved: bool, generated: bool, score: float, decided: str) -> AnsweredBothWays:
    return AnsweredBothWays(ASKED, "", retrieved, generated, score, decided)


FOUND = [answered(True, False, 9.0, "retrieve")] * 10


DRAWN = [answered(False, True, 3.0, "generate")] * 20


BOTH = [answered(True, True, 6.0, "generate")] * 10


def test_the_label_is_the_only_image_that_is_right_or_a_tie() -> None:
    assert [one[0].label for one in (FOUND, DRAWN, BOTH)] == ["retrieve", "generate", "tie"]
    assert answered(False, False, 0.0, "generate").label == "tie"


def test_only_an_image_of_the_whole_scene_is_right() -> None:
    def image(scene: Scene) -> GillImage:
        return GillImage(to_images(draw(scene)[None])[0], "generated", "generate")

    other = Scene(SCENE.objects, "day")
    assert judge([image(SCENE), image(other), None], [SCENE] * 3).tolist() == [True, False, False]
