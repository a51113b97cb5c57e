"""What GILL answers is judged by the whole scene."""

from picturebook.models.gill_answers import judge
from picturebook.world.drawing import draw, to_images
from picturebook.world.scene import Scene
from pipeline_gill import GillImage
from tests.picturebook.answered_prompts import BOTH, DRAWN, FOUND, SCENE, answered


def test_the_label_is_the_only_image_that_is_right_or_a_tie() -> None:
    assert [one[0].label for one in (FOUND, DRAWN, BOTH)] == ["retrieve", "generate", "tie"]
    assert answered(False, False, 0.0, "generate").label == "tie"


def test_only_an_image_of_the_whole_scene_is_right() -> None:
    def image(scene: Scene) -> GillImage:
        return GillImage(to_images(draw(scene)[None])[0], "generated", "generate")

    other = Scene(SCENE.objects, "day")
    assert judge([image(SCENE), image(other), None], [SCENE] * 3).tolist() == [True, False, False]
