"""The page of the demo says what can be typed, and marks what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gill.cli import main
from picturebook.models.smollm2 import LanguageModelMissing
from picturebook.report import demo
from picturebook.report.demo import Answer, UnseenWords
from picturebook.report.pages import write_page
from pipeline_gill import GillImage


def drawn(source: str) -> GillImage:
    decision = {"generated": "generate", "retrieved": "retrieve"}[source]
    return GillImage(Image.new("RGB", (32, 32), "red"), source, decision, {decision: 0.9})


@pytest.fixture
def page(tmp_path: Path) -> str:
    right, wrong = Answer("a red house", drawn("retrieved"), True), Answer("a red cat", drawn("generated"), False)
    lines = ["a red house .", "Q: what is it ?", "A: a cat .", "Q: can we see it ?", "A: picture :"]
    arguments: dict[str, Any] = {
        "stories": [
            [("A red house.", right), ("Then it leaves.", wrong), ("Then it is back.", Answer("a", None, False))]
        ],
        "dialogues": [(lines, wrong, {2})],
        "words": ["house", "red"],
        "num_images": 4,
        "num_right": 1,
        "unseen": UnseenWords(
            ("plain generator", "SmolLM2"), [("Draw a cottage.", "kinds by synonym", [wrong, right])]
        ),
    }
    write_page(tmp_path / "index.html", "demo", **arguments)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_it_lists_the_words_that_can_be_typed_and_where(page: str) -> None:
    assert "<code>house red</code>" in page and "<code>gill chat</code>" in page


def test_images_and_answers_in_words_that_are_wrong_are_marked(page: str) -> None:
    assert "1 of the 4 images" in page
    assert page.count("not as described") == 2  # in the story and in the dialogue
    assert re.search(r"A cat\.\s*<span class=\"wrong\">wrong</span>", page)
    assert len(re.findall(r'class="wrong">wrong', page)) == 1
    assert "a: no image" in page


def test_words_that_nobody_trained_on_have_a_column_for_each_system_failures_included(page: str) -> None:
    assert "<th>plain generator</th><th>SmolLM2</th>" in page
    assert page.index('class="failed"') < page.index('class="right"')


def test_without_smollm2_the_demo_says_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise LanguageModelMissing("Fetch it with: gill picturebook fetch")

    monkeypatch.setattr(demo, "load_smollm2_pipeline", missing)
    assert main(["demo", "--language-model", "smollm2", "--out", str(tmp_path)]) == 2
    assert "gill picturebook fetch" in capsys.readouterr().err


def test_dialogues_are_typeset_as_people_write(page: str) -> None:
    assert "A red house." in page and "What is it?" in page
    assert "Q:" not in page and "picture :" not in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_badges_and_marks_are_readable(page: str, scheme: str) -> None:
    palettes = re.findall(r":root \{(.*?)\}", page, re.DOTALL)
    colours: dict[str, str] = {}
    for palette in palettes if scheme == "dark" else [text for text in palettes if "#f6f2ea" in text]:
        colours |= dict(re.findall(r"--([\w-]+): (#\w+)", palette))
    for text, behind in (("on-badge", "generated"), ("on-badge", "retrieved"), ("wrong", "card"), ("wrong", "paper")):
        assert contrast(colours[text], colours[behind]) >= 4.5, (text, behind)


def contrast(text: str, behind: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(text), luminance(behind)))
    return (light + 0.05) / (dark + 0.05)
