"""The texts that CLIP is trained on."""

from picturebook.stages.train_clip import story_so_far
from picturebook.world.splits import TRAIN, stream


def test_a_story_so_far_has_two_to_five_sentences() -> None:
    generator = stream(0, TRAIN, "so far")
    assert {story_so_far(TRAIN, generator)[0].count(" .") for _ in range(60)} == {2, 3, 4, 5}
