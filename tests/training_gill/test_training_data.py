"""Image-caption pairs are read from wherever they are."""

import shutil

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_gill.image_loading_gill import load_image
from training_gill.collator import CaptionedImageCollator
from training_gill.training_data import DataError, open_data

CAPTIONS = ['a "quoted" cat', "null", "123", "the sea"]


@pytest.fixture
def folder(tmp_path):
    """Four images of grey levels 0, 40, 80, 120."""
    out = tmp_path / "data"
    out.mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (40 * number,) * 3).save(out / f"{number}.png")
    return out


def levels(data):
    return [int(np.asarray(load_image(example["image"])).mean()) for example in data]


def examples(data):
    return [data[i] for i in range(len(data))]


def test_a_tsv_as_the_authors_have_it(folder):
    lines = ["caption\timage", *(f"{caption}\t{i}.png" for i, caption in enumerate(CAPTIONS))]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    data = open_data(str(folder / "train.tsv"))
    assert [example["caption"] for example in examples(data)] == CAPTIONS == list(data.captions())
    assert levels(examples(data)) == [0, 40, 80, 120]
    assert "example 2 (2.png)" in data[2]["name"]


def test_a_tsv_with_its_images_elsewhere_and_columns_in_another_order(folder, tmp_path):
    (tmp_path / "t.tsv").write_text("image\tsource\tcaption\n1.png\tweb\ta cat\n")
    data = open_data(str(tmp_path / "t.tsv"), image_folder=str(folder))
    assert (data[0]["caption"], levels(examples(data))) == ("a cat", [40])


@pytest.mark.parametrize("streaming", (False, True))
@pytest.mark.parametrize(
    ("content", "captions"),
    [
        ("a cat\t0.png\na dog\t1.png\n", ["a cat", "a dog"]),
        ("\ufeffcaption\timage\r\na cat\t0.png\r\na dog\t1.png\r\n", ["a cat", "a dog"]),
        ("caption\timage\n\na\rcat\t0.png\t\na\u2028dog\t1.png\t\n", ["a\rcat", "a\u2028dog"]),
    ],
)
def test_a_tsv_without_header_or_with_odd_characters_is_read_row_by_row(folder, streaming, content, captions):
    (folder / "train.tsv").write_bytes(content.encode())
    data = open_data(str(folder / "train.tsv"), streaming=streaming)
    rows = list(data) if streaming else examples(data)
    assert [example["caption"] for example in rows] == captions
    assert levels(rows) == [0, 40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("caption\timage\na cat\t0.png\thttp://h/x\n", "line 2: 3 fields, expected 2"),
        ("caption\timage\na cat\n", "line 2: 1 fields"),
        ("caption\timage\n", "only a header"),
        ("caption\tpicture\na cat\t0.png\n", "looks like a header"),
    ],
)
@pytest.mark.parametrize("streaming", (False, True))
def test_a_tsv_whose_rows_do_not_fit_is_refused_with_the_line(folder, streaming, content, message):
    (folder / "train.tsv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_data(str(folder / "train.tsv"), streaming=streaming)


def test_images_are_found_under_other_spellings_of_their_names(folder):
    (folder / "1.png").rename(folder / "red car.png")
    (folder / "2.png").rename(folder / "gro\u0308\u00dfe.png")
    (folder / "train.tsv").write_text("a car\tred%20car.png\na size\tgr\u00f6\u00dfe.png\n")
    assert levels(examples(open_data(str(folder / "train.tsv")))) == [40, 80]


def test_a_name_that_may_be_several_files_is_left_out_like_an_image_that_cannot_be_read(folder, golden_processor):
    for name in ("gr\u00f6\u00dfe.png", "gro\u0308\u00dfe.png"):
        shutil.copy(folder / "1.png", folder / name)
    (folder / "train.tsv").write_text("one\tgr%C3%B6%C3%9Fe.png\ntwo\t0.png\n")
    batch = CaptionedImageCollator(golden_processor)(examples(open_data(str(folder / "train.tsv"))))
    assert batch["index"].tolist() == [1]
    assert "example 0" in batch["skipped"][0] and "may be any of" in batch["skipped"][0]


def test_an_image_folder_with_captions(folder):
    lines = ["file_name,text", *(f"{i}.png,image {i}" for i in range(4))]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    data = open_data(str(folder))
    found = {example["caption"]: level for example, level in zip(examples(data), levels(examples(data)), strict=True)}
    assert found == {f"image {i}": 40 * i for i in range(4)}
    assert isinstance(data[0]["image"], dict)  # not decoded


@pytest.mark.parametrize("streaming", (False, True))
def test_a_saved_data_set_with_columns_of_other_names(folder, tmp_path, streaming):
    rows = {"pic": [str(folder / f"{i}.png") for i in range(4)], "said": CAPTIONS}
    features = datasets.Features({"pic": datasets.Image(), "said": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "saved")
    data = open_data(
        str(tmp_path / "saved"), image_column="pic", caption_column="said", streaming=streaming, shuffle_seed=None
    )
    found = list(data) if streaming else examples(data)
    assert [example["caption"] for example in found] == CAPTIONS
    assert levels(found) == [0, 40, 80, 120]


def test_a_stream_is_in_another_order_each_epoch_and_in_the_same_one_again(folder):
    lines = ["caption\timage", *(f"caption {i}\t0.png" for i in range(64))]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")

    def order(epoch):
        data = open_data(str(folder / "train.tsv"), streaming=True, shuffle_seed=1)
        data.set_epoch(epoch)
        return [example["caption"] for example in data]

    assert order(0) == order(0)
    assert sorted(order(0)) == sorted(order(1)) != order(0)
    assert order(0) != order(1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/data.tsv", "data.tsv"),
        ("/no/such/*.tar", "no file|No file"),
        ("no/such-data-set", "no/such-data-set"),
    ],
)
def test_data_that_are_not_there_are_named(source, said):
    with pytest.raises(DataError, match=said):
        open_data(source)


def test_columns_that_are_not_there_are_named_with_those_that_are(folder, tmp_path):
    datasets.Dataset.from_dict({"a": [1], "b": ["x"]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"\['a', 'b'\].*image"):
        open_data(str(tmp_path / "saved"))
    with pytest.raises(DataError, match="'c'"):
        open_data(str(tmp_path / "saved"), image_column="a", caption_column="c")


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"image": ["x"], "caption": ["y"]})}).save_to_disk(
        tmp_path / "s"
    )
    with pytest.raises(DataError, match=r"train.*validation"):
        open_data(str(tmp_path / "s"), split="validation")
