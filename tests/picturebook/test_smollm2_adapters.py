"""The adapters between SmolLM2 and the picture book that are part of this checkout."""

import re
from pathlib import Path

import pytest

from chat_gill.serving import examples_of, find_model
from picturebook.checkpoint_folder import find_smollm2_adapters


def test_the_chat_page_finds_the_adapters_and_their_examples() -> None:
    folder = find_model(None, "smollm2")
    assert Path(folder) == find_smollm2_adapters()
    assert any("cottage" in text for text in examples_of(folder))
    with pytest.raises(ValueError, match="org/gill"):
        find_model("org/gill", "smollm2")


def test_the_adapters_have_at_most_10_megabytes_and_name_no_folder_of_a_machine() -> None:
    files = [path for path in find_smollm2_adapters().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10e6
    for path in files:
        if path.suffix == ".json":
            assert not re.search(r'"/[a-z]', path.read_text(encoding="utf-8")), path
