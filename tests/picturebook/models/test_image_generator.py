"""The plain generator that GILL is compared with draws captions, which GILL itself never encodes."""

from pathlib import Path

import numpy as np

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.models.image_generator import generate_from_captions, plain_captions, plain_generator
from picturebook.world.reader import correct_shares
from picturebook.world.scene import Scene, SceneObject
from pipeline_gill import GillPipeline
from pipeline_gill.conditioning_capture_gill import capture_negatives
from tests.pipeline_gill.test_conditioning_capture_gill import TENSORS
from tests.pipeline_gill.test_whole_generator import pipeline, seeded

SCENES = [Scene((SceneObject("house", "red", "left"),), "night")]


def test_the_generator_of_a_pipeline_that_was_loaded_draws_a_caption_on_its_own() -> None:
    images = generate_from_captions(plain_generator(load_pipeline(CHECKPOINT)), plain_captions(SCENES), 0)
    assert correct_shares(images, SCENES)["scene"] == 1


def test_so_does_that_of_a_repository_that_is_written_today_which_is_loaded_without_text_encoder(
    tmp_path: Path,
) -> None:
    pipe = pipeline("stable-diffusion-1.5")
    pipe.negative_conditioning = capture_negatives(pipe.image_generator, TENSORS["stable-diffusion-1.5"])
    pipe.save_pretrained(tmp_path)
    loaded = GillPipeline.from_pretrained(tmp_path)
    assert loaded.image_generator.text_encoder is None
    options = {"num_inference_steps": 2, "output_type": "np"}
    found, wanted = (
        generator("a cat", **options, generator=seeded()).images
        for generator in (plain_generator(loaded), pipe.image_generator)
    )
    assert np.abs(found - wanted).max() < 1e-5
