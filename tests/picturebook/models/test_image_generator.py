"""The plain generator that GILL is compared with draws captions, which GILL itself never encodes."""

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.models.image_generator import generate_from_captions, plain_captions, plain_generator
from picturebook.world.reader import correct_shares
from picturebook.world.scene import Scene, SceneObject

SCENES = [Scene((SceneObject("house", "red", "left"),), "night")]


def test_the_generator_of_a_pipeline_that_was_loaded_draws_a_caption_on_its_own() -> None:
    images = generate_from_captions(plain_generator(load_pipeline(CHECKPOINT)), plain_captions(SCENES), 0)
    assert correct_shares(images, SCENES)["scene"] == 1
