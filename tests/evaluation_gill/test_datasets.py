"""Annotation files saved by spreadsheets and editors read as those of the datasets' authors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluation_gill.captions import read_captions
from evaluation_gill.dialogues import read_dialogues
from evaluation_gill.stories import read_stories
from tests.evaluation_gill.conftest import visdial, vist_annotations

COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a\u2028b"}]}
FILES: list[tuple[Callable[[Any], Any], Any]] = [
    (read_stories, {"annotations": vist_annotations([("s1", ["p0", "p1", "p2"])])}),
    (read_dialogues, visdial([1], rounds=2)),
    (read_captions, COCO),
]


@pytest.mark.parametrize(("read", "content"), FILES)
def test_a_byte_order_mark_is_no_part_of_json(tmp_path: Path, read: Callable[[Path], Any], content: Any) -> None:
    plain, marked = tmp_path / "a.json", tmp_path / "b.json"
    text = json.dumps(content, ensure_ascii=False)
    plain.write_text(text, encoding="utf-8")
    marked.write_text(text, encoding="utf-8-sig")
    assert read(plain) == read(marked)


@pytest.mark.parametrize("read", [read for read, _ in FILES])
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "[" * 100_000, '{"data": 1, "annotations": 1, "images": 1}', "1" * 5000]
)
def test_anything_else_is_a_value_error_that_names_the_file(
    tmp_path: Path, read: Callable[[Path], Any], text: str
) -> None:
    (tmp_path / "strange.json").write_text(text)
    with pytest.raises(ValueError, match=r"strange\.json"):
        read(tmp_path / "strange.json")
