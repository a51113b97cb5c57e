"""A retrieval set finds the nearest image, exactly, says what it was made for, and never hangs or lies."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gill.fingerprint_gill import fingerprint_name
from modeling_gill.image_loading_gill import ImageError
from pipeline_gill import retrieval_images_gill, retrieval_index_gill
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.tiny_retrieval import (
    COLOURS,
    FINGERPRINT,
    RED,
    TINY_PROCESSOR,
    TinyModel,
    build,
    colour_of,
    image_server,
    paint,
    ranked_set,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return paint(tmp_path / "images")


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("no_proxy", "*")
    retrieval_images_gill.url_cache.clear()
    with image_server((folder / "red.png").read_bytes()) as running:
        yield running


@pytest.fixture(params=["faiss", "no faiss"])
def either_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setattr(retrieval_index_gill, "faiss", None)


# --- building --------------------------------------------------------------------------------------------------------


def test_a_set_built_from_images_finds_and_opens_the_nearest(folder: Path) -> None:
    retrieval_set = build(folder, source="four colours")
    found = retrieval_set.retrieve(RED)
    assert found is not None and colour_of(found) == "red"
    assert (found.index, found.path, found.caption, found.skipped) == (2, "red.png", "red", ())
    assert found.cosine == pytest.approx(1)
    info = retrieval_set.info
    assert (len(retrieval_set), info.retrieval_dim, info.source, info.skipped) == (4, 3, "four colours", 0)
    assert np.linalg.norm(retrieval_set.dataset["embedding"], axis=1) == pytest.approx(np.ones(4))


def test_a_set_says_which_weights_it_was_made_for_and_refuses_others(folder: Path) -> None:
    retrieval_set = build(folder)
    retrieval_set.check_fingerprint(FINGERPRINT)
    other = TinyModel(seed=1).retrieval_fingerprint()
    with pytest.raises(ValueError) as error:
        retrieval_set.check_fingerprint(other)
    assert fingerprint_name(FINGERPRINT) in str(error.value) and fingerprint_name(other) in str(error.value)


def test_embedded_images_need_no_files_and_others_do(folder: Path) -> None:
    embedded, referred = build(folder), build(folder, embed_images=False)
    assert referred.open_image(2).getpixel((0, 0)) == COLOURS["red"]
    shutil.rmtree(folder)
    assert embedded.open_image(2).getpixel((0, 0)) == COLOURS["red"]
    with pytest.raises(ImageError, match="no such file"):
        referred.open_image(2)
    with pytest.raises(IndexError, match="expected 0 to 3"):
        embedded.open_image(-1)


def test_unreadable_images_are_left_out_counted_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "broken.png").write_bytes(b"nothing of the kind")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:-30])
    retrieval_set = build(folder)
    assert (len(retrieval_set), retrieval_set.info.skipped) == (4, 2)
    assert "broken.png" in caplog.text and "cut.png" in caplog.text
    with pytest.raises(ValueError, match=r"More than 1 images .*cut.png"):
        build(folder, max_errors=1)


def test_no_readable_image_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image to retrieve: 1 could not be used"):
        RetrievalSet.build(TinyModel(), TINY_PROCESSOR, [(tmp_path / "none.png", None)], progress=False)


def test_images_are_read_as_they_come_and_only_a_batch_is_held() -> None:
    taken = 0

    def endless() -> Iterator[tuple[Any, None]]:
        nonlocal taken
        while True:
            taken += 1
            assert taken - sum(model.batches) <= 4
            if taken > 10:
                return
            yield Image.new("RGB", (2, 2), COLOURS["red"]), None

    model = TinyModel()
    retrieval_set = RetrievalSet.build(model, TINY_PROCESSOR, endless(), batch_size=4, progress=False)
    assert model.batches == [4, 4, 2] and len(retrieval_set) == 10


def test_an_image_that_could_not_be_opened_again_must_be_embedded() -> None:
    for source in (Image.new("RGB", (2, 2)), {"bytes": b"x", "path": "nowhere.png"}, "data:image/png;base64,AAAA"):
        with pytest.raises(ValueError, match="cannot be opened again"):
            RetrievalSet.build(TinyModel(), TINY_PROCESSOR, [(source, None)], embed_images=False, progress=False)


def test_an_image_without_a_direction_is_left_out_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (2, 2)).save(folder / "black.png")
    assert len(build(folder)) == 4
    assert "zero, NaN or infinite: black.png" in caplog.text


# --- embeddings made elsewhere ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "tensor", "list of arrays", "list of tensors"])
def test_embeddings_of_the_original_authors_are_taken_and_normalised(kind: str, folder: Path) -> None:
    array = np.array([[0, 2.0, 0], [5.0, 0, 0]], np.float32)
    embeddings = {
        "array": array,
        "tensor": torch.from_numpy(array).half(),
        "list of arrays": list(array.astype(np.float64)),
        "list of tensors": list(torch.from_numpy(array).bfloat16()),
    }[kind]
    retrieval_set = RetrievalSet.from_embeddings(["green.png", "red.png"], embeddings, FINGERPRINT, base_dir=folder)
    found = retrieval_set.retrieve(RED)
    assert found is not None and (colour_of(found), found.cosine) == ("red", 1.0)


@pytest.mark.parametrize(
    ("embeddings", "said"),
    [
        (np.ones((3, 4)), "2 paths and 3 embeddings"),
        (np.array([[1.0, 0], [0, 0]]), r"zero, NaN or infinite.*1 \('b'\)"),
        (np.array([[np.nan, 0], [0, 1]]), r"zero, NaN or infinite.*0 \('a'\)"),
        ([np.ones(3), np.ones(4)], "one length"),
        (np.ones(2), "expected"),
    ],
)
def test_broken_embeddings_are_refused_and_named(embeddings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RetrievalSet.from_embeddings(["a", "b"], embeddings, FINGERPRINT)


# --- searching -------------------------------------------------------------------------------------------------------


def random_set(rows: int, width: int = 16) -> tuple[RetrievalSet, torch.Tensor]:
    embeddings = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    paths = [f"nowhere/{number}.png" for number in range(rows)]
    return RetrievalSet.from_embeddings(paths, embeddings, FINGERPRINT), embeddings


@pytest.mark.usefixtures("either_search")
def test_search_is_exact_and_clips_k() -> None:
    retrieval_set, embeddings = random_set(500)
    queries = torch.randn(7, 16, generator=torch.Generator().manual_seed(1))
    unit = torch.nn.functional.normalize
    expected = (unit(queries.double(), dim=1) @ unit(embeddings.double(), dim=1).T).topk(20)
    scores, indices = retrieval_set.search(100 * queries, 20)
    assert torch.equal(indices, expected.indices) and scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected.values, atol=1e-6, rtol=0)
    assert retrieval_set.search(queries, 1000)[1].shape == (7, 500)
    assert retrieval_set.search(queries, 1)[1].flatten().tolist() == expected.indices[:, 0].tolist()


@pytest.mark.usefixtures("either_search")
def test_equal_images_come_in_the_order_of_their_index() -> None:
    embeddings = np.zeros((400, 8), np.float32)
    embeddings[:, 0] = 1
    embeddings[::2, 1] = 1
    retrieval_set = RetrievalSet.from_embeddings(["x"] * 400, embeddings, FINGERPRINT)
    query = torch.eye(8)[:1]
    assert retrieval_set.search(query, 5)[1].tolist() == [[1, 3, 5, 7, 9]]
    assert [index for index, _ in retrieval_set.candidates(query[0])] == [*range(1, 400, 2), *range(0, 400, 2)]


@pytest.mark.usefixtures("either_search")
def test_candidates_go_on_to_the_last_image_without_the_excluded() -> None:
    retrieval_set, _ = random_set(1500)
    query = torch.randn(16, generator=torch.Generator().manual_seed(1))
    ranked = retrieval_set.search(query[None], 1500)[1][0].tolist()
    excluded = set(ranked[:40])
    assert [index for index, _ in retrieval_set.candidates(query, exclude=excluded)] == ranked[40:]
    assert [index for index, _ in retrieval_set.candidates(query, exclude=excluded, limit=3)] == ranked[40:43]


def test_a_query_of_the_wrong_shape_or_without_a_direction_is_refused() -> None:
    retrieval_set, _ = random_set(10)
    for query in (torch.ones(2, 5), torch.ones(16), torch.zeros(1, 16), torch.full((1, 16), float("nan"))):
        with pytest.raises(ValueError, match="expected"):
            retrieval_set.search(query, 1)
    with pytest.raises(ValueError, match="k is 0"):
        retrieval_set.search(torch.ones(1, 16), 0)


# --- images that cannot be opened ----------------------------------------------------------------------------------


def test_a_slow_url_gives_way_to_the_next_best_within_the_deadline(
    server: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = "http://127.0.0.1:1/dead.png"
    paths = [server.url + "/slow.png", dead, server.url + "/missing.png", "gone.png", "red.png"]
    found = ranked_set(paths, folder).retrieve(RED, image_timeout=1.0)
    assert found is not None and (found.index, colour_of(found)) == (4, "red")
    assert [skipped.path for skipped in found.skipped] == paths[:4]
    for path, reason in zip(paths, ("did not finish within", "refused", "404", "no such file"), strict=False):
        assert any(path in message and reason in message for message in caplog.messages)


def test_many_slow_urls_end_at_the_deadline_with_nothing(server: Any) -> None:
    paths = [f"{server.url}/slow{number}.png" for number in range(10)]
    assert ranked_set(paths).retrieve(RED, image_timeout=0.4, deadline_s=0.5) is None
    assert len(server.asked) <= 2


def test_no_more_images_are_tried_than_allowed(folder: Path) -> None:
    retrieval_set = ranked_set(["gone1.png", "gone2.png", "red.png"], folder)
    assert retrieval_set.retrieve(RED, max_attempts=2) is None
    found = retrieval_set.retrieve(RED, max_attempts=3)
    assert found is not None and found.index == 2


def test_an_image_already_shown_is_not_shown_again(folder: Path) -> None:
    retrieval_set = build(folder)
    shown: set[int] = set()
    while found := retrieval_set.retrieve(RED, exclude=shown):
        assert found.index not in shown
        shown.add(found.index)
    assert shown == {0, 1, 2, 3}


def test_a_url_is_fetched_once_whether_it_leads_to_an_image_or_not(server: Any) -> None:
    retrieval_set = ranked_set([server.url + "/missing.png", server.url + "/red.png"])
    for _ in range(3):
        found = retrieval_set.retrieve(RED)
        assert found is not None and colour_of(found) == "red"
        found.image.putpixel((0, 0), (0, 0, 0))
    assert server.asked == ["/missing.png", "/red.png"]


def test_a_url_that_failed_for_want_of_time_is_tried_again_with_more(server: Any) -> None:
    retrieval_set = ranked_set([server.url + "/slow.png"])
    for timeout in (0.5, 0.25, 1.0):
        with pytest.raises(ImageError):
            retrieval_set.open_image(0, timeout=timeout)
    assert len(server.asked) == 2


def test_the_memory_of_urls_is_bounded(server: Any) -> None:
    cache = retrieval_images_gill.ImageCache(max_entries=2, max_bytes=3 * 6 * 4 * 2)
    for number in (1, 2, 3, 3, 1):
        cache.load(f"{server.url}/red{number}.png", timeout=5)
    assert server.asked == ["/red1.png", "/red2.png", "/red3.png", "/red1.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": [None, "b", "c"]}, "path 0 is None, expected a URL or the name of a file"),
        ({"paths": ["a", b"b", "c"]}, "path 1 is b'b'"),
        ({"paths": ["a", "b", ""]}, "path 2 is ''"),
        ({"paths": "abc"}, "`paths` is 'abc', expected a list"),
        ({"captions": "abc"}, "`captions` is 'abc', expected a list"),
        ({"captions": ["a", float("nan"), None]}, "caption 1 is nan, expected a string or None"),
        ({"captions": ["a", "b", "\ud800"]}, r"caption 2 holds the lone surrogate U\+D800"),
        ({"embeddings": np.eye(3) * 1j}, "are complex, expected real numbers"),
    ],
)
def test_paths_and_captions_that_are_no_strings_are_refused_and_named(arguments: dict[str, Any], message: str) -> None:
    given = {"paths": ["a", "b", "c"], "embeddings": np.eye(3), "fingerprint": FINGERPRINT, **arguments}
    with pytest.raises(ValueError, match=message):
        RetrievalSet.from_embeddings(**given)


def test_images_to_embed_come_in_pairs_with_captions_of_text(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    red = folder / "red.png"

    def built(*images: Any) -> RetrievalSet:
        return RetrievalSet.build(TinyModel(), TINY_PROCESSOR, images, base_dir=folder, progress=False)

    for entry in ("ab", str(red), {"image": red, "caption": "red"}):
        with pytest.raises(ValueError, match="expected pairs of an image and its caption or None"):
            built(entry)
    for caption in (5, float("nan")):
        with pytest.raises(ValueError, match=f"the caption of .*red.png' is {caption}, expected a string or None"):
            built((red, caption))
    assert built((red, "a\ud800"), (red, "red")).info.skipped == 1
    assert "its caption holds the lone surrogate U+D800" in caplog.text
