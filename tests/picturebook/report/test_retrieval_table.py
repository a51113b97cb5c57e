"""Retrieval of a story's last image: what counts as a candidate, and the table of the checkpoint."""

import pytest

from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.report.retrieval_table import excluded_images, retrieval_table
from tests.picturebook.answered_prompts import SCENE
from tests.picturebook.scene_keys import scene_of_key


def test_own_images_and_images_of_the_same_scene_are_no_candidates() -> None:
    others = [scene_of_key(f"night/left-{colour}-cat") for colour in ("red", "blue", "green", "yellow")]
    # Three stories of two images; the first image of the second and the last of the third show the same scene.
    scenes = [others[0], SCENE, SCENE, others[1], others[2], SCENE]
    assert excluded_images(scenes, 2) == [{0, 2, 5}, {2}, {1, 2, 4}]


@pytest.mark.slow
def test_more_of_the_story_finds_more_last_images() -> None:
    rows = retrieval_table(load_pipeline(CHECKPOINT), 40, 0).rows
    last, five, images = (row["recall@1"].value for row in rows.values())
    assert last < 0.3 < 0.7 < five and images >= 0.7
