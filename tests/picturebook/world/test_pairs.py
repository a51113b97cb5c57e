"""Captions and stories are true of their images."""

from pathlib import Path

import datasets
import numpy as np

from picturebook.world.caption_grammar import describe, parse_caption
from picturebook.world.drawing import draw, from_images
from picturebook.world.pairs import PairMixture, illustrated_stories, sample_pairs, save_pairs
from picturebook.world.partial_scene import fully_known
from picturebook.world.reader import read
from picturebook.world.splits import TEST, TRAIN, stream
from picturebook.world.story_listener import fits

from ..scene_keys import scene_of_key


def test_captions_are_true_of_their_images() -> None:
    pairs = sample_pairs(TRAIN, 300, stream(0, TRAIN, "test"))
    assert pairs.images.shape == (300, 32, 32, 3) and pairs.images.dtype == np.uint8
    for scene, caption, seen in zip(pairs.scenes, pairs.captions, read(pairs.images).scenes(), strict=True):
        known = parse_caption(caption)
        assert known is not None and fits(known, scene) and seen == scene
    assert 0.03 < np.mean([not parse_caption(one).complete for one in pairs.captions]) < 0.3  # type: ignore[union-attr]


def test_a_mixture_of_plain_captions_of_one_object_has_nothing_else() -> None:
    pairs = sample_pairs(
        TRAIN, 100, stream(0, TRAIN, "easy"), PairMixture(single_share=1.0, plain_share=1.0, partial_share=0.0)
    )
    assert list(pairs.captions) == [describe(fully_known(scene)) for scene in pairs.scenes]
    assert all(len(scene.objects) == 1 for scene in pairs.scenes)


def test_stories_have_the_images_of_their_scenes() -> None:
    for story, images in illustrated_stories(TEST, 20):
        assert images.shape == (5, 32, 32, 3)
        assert tuple(read(images).scenes()) == story.scenes


def test_without_jitter_objects_stand_exactly_at_their_places(tmp_path: Path) -> None:
    mixture = PairMixture(jitter=False)
    pairs = sample_pairs(TRAIN, 20, stream(0, TRAIN, "still"), mixture)
    assert all(np.array_equal(image, draw(scene)) for image, scene in zip(pairs.images, pairs.scenes, strict=True))
    jittered = sample_pairs(TRAIN, 20, stream(0, TRAIN, "still"))
    assert jittered.scenes == pairs.scenes and not np.array_equal(jittered.images, pairs.images)
    save_pairs(tmp_path, {TRAIN: 8}, mixture=mixture, group_size=4)
    for row in datasets.load_from_disk(str(tmp_path))[TRAIN]:
        assert np.array_equal(from_images([row["image"]])[0], draw(scene_of_key(row["scene"])))
