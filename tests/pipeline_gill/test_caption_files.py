"""Files of captions are read strictly, and alike for training, retrieval and evaluation."""

import doctest
import os
import unicodedata

import pytest

from pipeline_gill import caption_files
from pipeline_gill.caption_files import CaptionFileError, find_image, read_captions, read_json, read_lines, read_table

WANTED = [("red", "a.png"), ("blue", "b.png")]


@pytest.fixture
def tsv(tmp_path):
    """Writes bytes or text as a file."""

    def write(content):
        path = tmp_path / "captions.tsv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def pairs(path, **options):
    return [(row.caption, row.image) for row in read_captions(path, **options)]


@pytest.mark.parametrize(
    "content",
    [
        "red\ta.png\nblue\tb.png\n",
        "red\ta.png\nblue\tb.png",
        "red\ta.png\r\nblue\tb.png\r\n",
        "caption\timage\nred\ta.png\nblue\tb.png\n",
        "Caption\tURL\r\nred\ta.png\r\nblue\tb.png\r\n",
        "image\tsource\tcaption\na.png\tweb\tred\nb.png\tweb\tblue\n",
        "\ufeffcaption\timage\nred\ta.png\nblue\tb.png\n",
        "\ufeffred\ta.png\nblue\tb.png\n",
        "caption\timage\n\nred\ta.png\n \t\nblue\tb.png\n\n",
        "caption\timage\nred\ta.png\t\nblue\tb.png\n",
        "caption\timage\t\nred\ta.png\t\nblue\tb.png\t\n",
        "red\ta.png\t\nblue\tb.png\t\n",
        "caption\timage\nred\t a.png \nblue\tb.png\n",
    ],
)
def test_a_file_with_or_without_header_is_read_whatever_wrote_it(tsv, content):
    assert pairs(tsv(content)) == WANTED


@pytest.mark.parametrize("separator", ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_only_a_line_feed_ends_a_line(tsv, separator):
    caption = f"red{separator}car"
    assert pairs(tsv(f"{caption}\ta.png\nblue\tb.png\n")) == [(caption, "a.png"), ("blue", "b.png")]
    assert list(read_lines(tsv(f"{caption}\n"))) == [(1, caption)]


def test_quotation_marks_mean_nothing(tsv):
    content = 'a "quoted" cat\ta.png\n"blue\tb.png\nnull\tc.png\n"x"\td.png\n'
    assert [caption for caption, _ in pairs(tsv(content))] == ['a "quoted" cat', '"blue', "null", '"x"']


def test_rows_have_the_numbers_of_their_lines(tsv):
    rows = list(read_captions(tsv("caption\timage\n\nred\ta.png\n\nblue\tb.png\n")))
    assert [row.line for row in rows] == [3, 5]


def test_columns_may_be_named(tsv):
    path = tsv("what\timage\tpreview\nred\tx.png\ta.png\nblue\ty.png\tb.png\n")
    assert pairs(path, image_column="preview", caption_column="what") == WANTED
    assert pairs(path, caption_column="what") == [("red", "x.png"), ("blue", "y.png")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("caption\timage\nred\ta.png\nblue\tb.png\thttp://h/x\n", "line 3: 3 fields, expected 2"),
        ("caption\timage\nred\ta.png\nblue\n", "line 3: 1 fields, expected 2"),
        ("caption\timage\n\tred\ta.png\n", "line 2: 3 fields, expected 2"),
        ("caption\timage\nred\ta.png\t\t\n", "line 2: 4 fields, expected 2"),
        ("red\ta.png\thttp://h/x\n", "line 1: 3 fields, expected 2"),
        ("caption\tpicture\nred\ta.png\n", "looks like a header"),
        ("caption\timage\timage\nred\ta.png\tb.png\n", "several columns named"),
        ("a.png\tred\n", "caption first"),
        ("", "no captions"),
        ("caption\timage\n\n", "only a header"),
        (b"caption\timage\nr\xe9d\ta.png\n", "line 2: no UTF-8"),
        ("caption\timage\n".encode("utf-16"), "UTF-16"),
        ("caption\timage\nr\0d\ta.png\n", "line 2: a null"),
    ],
)
def test_anything_else_is_refused_with_file_and_line(tsv, content, message):
    with pytest.raises(CaptionFileError, match=f"captions.tsv.*{message}"):
        list(read_captions(tsv(content)))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tsv):
    with pytest.raises(CaptionFileError, match=r"\['what', 'image'\], expected 'caption'"):
        list(read_captions(tsv("what\timage\nred\ta.png\n"), caption_column="caption"))


def test_a_table_has_a_header_of_any_names(tsv):
    header, rows = read_table(tsv("\ufeffPrompt\tDecision\r\na \u2028 dog\tgen\r\n"))
    assert header == ["Prompt", "Decision"]
    assert [(row.fields, row.line) for row in rows] == [(["a \u2028 dog", "gen"], 2)]
    with pytest.raises(CaptionFileError, match="line 2: 1 fields"):
        list(read_table(tsv("Prompt\tDecision\nx\n"))[1])


def test_json_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff{"a": [1]}'.encode())
    assert read_json(path) == {"a": [1]}
    for content in (b'{"a": ', b"\xff", b"[" * 100_000, b"9" * 5000):
        path.write_bytes(content)
        with pytest.raises(CaptionFileError, match=r"a\.json is no JSON"):
            read_json(path)


NFC, NFD = unicodedata.normalize("NFC", "größe.png"), unicodedata.normalize("NFD", "größe.png")


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("a.png", "a.png"),
        ("red car.png", "red%20car.png"),
        ("red%20car.png", "red car.png"),
        (NFC, NFD),
        (NFD, NFC),
        ("gr%C3%B6%C3%9Fe.png", NFD),
        (f"{NFD[:-4]}/{NFC}", f"{NFC[:-4]}/{NFD}"),
    ],
)
def test_a_file_is_found_under_another_spelling_of_its_name(tmp_path, there, asked):
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()
    assert find_image(tmp_path, asked) == str(tmp_path / there)


def test_a_name_that_may_be_several_files_is_refused_unless_one_has_exactly_it(tmp_path):
    (tmp_path / NFC).touch()
    (tmp_path / NFD).touch()
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system ignores normal forms")
    assert find_image(tmp_path, NFD) == str(tmp_path / NFD)
    path = tmp_path / "captions.tsv"
    path.write_text("big\tgr%C3%B6%C3%9Fe.png\n")
    with pytest.raises(CaptionFileError, match=r"captions\.tsv, line 1: .*may be any of"):
        list(read_captions(path, image_root=tmp_path))


def test_a_url_and_a_file_that_is_missing_stay_as_they_are(tmp_path):
    assert find_image(tmp_path, "http://h/a%20b.png") == "http://h/a%20b.png"
    assert find_image(tmp_path, "a%20b.png") == str(tmp_path / "a%20b.png")


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(caption_files).failed == 0
