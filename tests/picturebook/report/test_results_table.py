"""Figures with their intervals, as people and as programs read them."""

import json

import numpy as np

from picturebook.report.results_table import Table, counted, mean_of, statistic_of


def test_a_mean_lies_in_its_interval() -> None:
    figure = mean_of(np.array([True] * 80 + [False] * 20))
    assert figure.value == 0.8
    assert 0.70 < figure.low < 0.76 < 0.84 < figure.high < 0.90
    assert mean_of(np.ones(5)).text() == "100.0 (100.0 to 100.0)"


def test_a_statistic_is_of_the_items_drawn() -> None:
    values = np.arange(10.0)
    figure = statistic_of(10, lambda drawn: float(values[drawn].max()))
    assert figure.value == 9 and figure.low < 9 and figure.high == 9


def test_one_thing_is_told_in_the_singular() -> None:
    assert counted(1, "story", "stories") == "1 story" and counted(40, "story", "stories") == "40 stories"
    assert counted(1, "scene") == "1 scene" and counted(0, "scene") == "0 scenes"


def test_markdown_and_json_say_the_same() -> None:
    table = Table("t", "Title", ("right", "wrong"), {"one": {"right": mean_of(np.ones(4))}}, "A note.")
    assert table.markdown().splitlines() == [
        "### Title",
        "",
        "| | right | wrong |",
        "|---|---|---|",
        "| one | 100.0 (100.0 to 100.0) |  |",
        "",
        "A note.",
    ]
    found = json.loads(json.dumps(table.as_json()))
    assert found["rows"] == {"one": {"right": [1.0, 1.0, 1.0]}} and found["note"] == "A note."
