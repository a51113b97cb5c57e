"""Pairs and stories as tar shards, as `training_gill` reads them."""

import io
import json
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from picturebook.world.drawing import draw
from picturebook.world.pairs import PairMixture
from picturebook.world.phrases import IMAGE_REQUEST
from picturebook.world.reader import read
from picturebook.world.record_shards import illustrated_documents, pairs_to_draw, pairs_to_read, write_shards
from picturebook.world.splits import TRAIN, split_of
from picturebook.world.story_listener import follow_story
from picturebook.world.story_sampling import SENTENCES
from training_gill.recipe import record_sets
from training_gill.record_mixture import open_mixture
from training_gill.records import DocumentRecord, PairRecord


def documents(number: int) -> list[tuple[list[str], list[int]]]:
    """Texts of stories, and after which of them an image stands."""
    found = []
    for files in islice(illustrated_documents(TRAIN, number, 0), number):
        fields = json.loads(files["json"])
        info = fields["image_info"]
        assert {f"{image['matched_text_index']}.png" for image in info} == {*files} - {"json"}
        assert all(image["image_name"] == f"{image['matched_text_index']}.png" for image in info)
        found.append((fields["text_list"], [image["matched_text_index"] for image in info]))
    return found


def test_a_request_ends_each_text_of_a_story_that_an_image_follows() -> None:
    for texts, shown in documents(40):
        assert len(texts) == SENTENCES and shown[-1] == SENTENCES - 1
        assert [number for number, text in enumerate(texts) if text.endswith(IMAGE_REQUEST)] == shown


def test_some_stories_have_all_images_and_some_of_these_lack_their_first_sentence() -> None:
    found = documents(60)
    assert {len(shown) for _, shown in found} >= {1, SENTENCES}
    untold = [shown for texts, shown in found if texts[0] == IMAGE_REQUEST]
    assert untold and all(len(shown) == SENTENCES for shown in untold)


def test_a_listener_follows_the_stories_which_are_of_the_train_split() -> None:
    for texts, _ in documents(20):
        if texts[0] == IMAGE_REQUEST:
            continue
        states = follow_story(" ".join(text.removesuffix(IMAGE_REQUEST) for text in texts))
        assert len(states) == SENTENCES
        for state in states:
            if state.known.complete:
                assert split_of(state.known.scene()) in (None, TRAIN)


def test_images_of_documents_are_as_the_generator_draws_them_unless_they_are_to_be_read() -> None:
    for jitter in (False, True):
        images = [
            np.asarray(Image.open(io.BytesIO(content)))
            for files in illustrated_documents(TRAIN, 10, 0, jitter)
            for name, content in files.items()
            if name != "json"
        ]
        still = [np.array_equal(image, draw(scene)) for image in images if (scene := read(image[None]).scenes()[0])]
        assert len(still) >= 20 and all(still) is not jitter


def test_pairs_to_draw_end_with_a_request_and_those_that_are_read_do_not() -> None:
    mixture = PairMixture(single_share=0.5)
    drawn = [files["txt"].decode().endswith(IMAGE_REQUEST) for files in pairs_to_draw(TRAIN, 40, 0, mixture)]
    read = [files["txt"].decode().endswith(IMAGE_REQUEST) for files in pairs_to_read(TRAIN, 40, 0, mixture)]
    assert all(drawn) and not any(read)


def test_shards_are_the_same_each_time_and_read_as_records(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, "draw", 3, pairs_to_draw(TRAIN, 3, 0, PairMixture()))
        write_shards(tmp_path / name, "story", 3, illustrated_documents(TRAIN, 3, 0))
    files = [sorted(path.read_bytes() for path in (tmp_path / name).glob("*.tar")) for name in ("one", "two")]
    assert files[0] == files[1] and len(files[0]) == 2
    sets = [
        {"kind": "pairs", "files": str(tmp_path / "one" / "draw-*.tar")},
        {"kind": "documents", "files": str(tmp_path / "one" / "story-*.tar")},
    ]
    records = [example["record"] for example in islice(open_mixture(record_sets(sets, "train_data"), seed=None), 6)]
    assert {type(record) for record in records} == {PairRecord, DocumentRecord}
