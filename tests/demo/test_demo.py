"""`python -m demo`: the first command of the README, on the embedded checkpoint."""

import re
import sys
from pathlib import Path

import pytest

from demo.__main__ import main


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["demo", "--out", str(folder)])
        main()
    return (folder / "index.html").read_text(encoding="utf-8")


def test_the_page_has_stories_and_dialogues_with_pictures(page: str) -> None:
    assert page.count('<article class="story">') >= 3
    assert page.count('<article class="dialogue">') >= 2
    assert page.count('src="data:image/png') >= 3 * 5 + 2


def test_pictures_are_retrieved_and_generated_and_the_page_says_which(page: str) -> None:
    badges = re.findall(r'<span class="badge">(retrieved|generated), \d+ % sure</span>', page)
    assert {*badges} == {"retrieved", "generated"}


def test_nearly_all_of_it_is_right(page: str) -> None:
    found = re.search(r"(\d+) of the (\d+) pictures show all that they should", page)
    assert found is not None
    assert int(found[1]) >= 0.7 * int(found[2])


def test_nothing_is_fetched_from_elsewhere(page: str) -> None:
    assert not re.search(r'(?:src|href)="(?!data:)', page)


def test_another_model_may_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--out", str(tmp_path), "--model", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"demo: .*none"):
        main()
