"""Results on disk, and side by side."""

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation_gill.bootstrap import interval_of_mean
from evaluation_gill.compare import table
from evaluation_gill.results import LeftOut, MetricValue, Results
from gill.cli import main

PROTOCOL = {
    "data": "VIST",
    "annotations": "val.story-in-sequence.json",
    "annotations_sha256": "0" * 64,
    "limit": None,
    "context": "all captions",
    "target": "last image of each story",
    "examples": 4990,
    "seed": 42,
    "seeding": "one generator for the whole run",
    "drawing": {"steps": 50, "guidance": 7.5, "size": None},
    "metrics": {"clip_image_similarity": {"model": "openai/clip-vit-large-patch14", "revision": None}},
}
GILL = Results(
    "vist generation",
    {"kind": "gill", "name": "org/gill", "revision": "0123456789"},
    PROTOCOL,
    [MetricValue("clip_image_similarity", 0.61234, 4990, (0.6091, 0.6154))],
)
PLAIN = replace(
    GILL,
    system={"kind": "generator", "name": "org/sd", "revision": None},
    metrics=[MetricValue("clip_image_similarity", 0.6001, 4989, (0.597, 0.603))],
    left_out=[LeftOut("story 7", "lost")],
)


def test_two_results_stand_side_by_side_with_intervals_and_the_papers_figures() -> None:
    lines = table([GILL, PLAIN]).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:5]]
    assert lines[:2] == ["# vist generation", ""] and len({len(line) for line in lines[2:5]}) == 1
    assert rows[0] == ["", "A: gill org/gill @ 01234567", "B: generator org/sd", "paper, same protocol"]
    assert rows[2] == [
        "clip_image_similarity",
        "0.6123 [0.6091, 0.6154] n=4990",
        "0.6001 [0.5970, 0.6030] n=4989",
        "GLIDE 0.591, Stable Diffusion 0.598, GILL 0.612",
    ]
    assert lines[5:] == [
        "",
        f"Protocol: data VIST; annotations val.story-in-sequence.json; annotations_sha256 {'0' * 64}; context all "
        "captions; target last image of each story; examples 4990; seed 42; seeding one generator for the whole run; "
        "drawing.steps 50; drawing.guidance 7.5; metrics.clip_image_similarity.model openai/clip-vit-large-patch14",
        "B left out 1 examples.",
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 7},
        {"limit": 100},
        {"annotations": "test.story-in-sequence.json"},
        {"drawing": {"steps": 20, "guidance": 7.5, "size": None}},
        {"metrics": {"clip_image_similarity": {"model": "openai/clip-vit-base-patch32", "revision": None}}},
    ],
)
def test_the_papers_figures_stand_there_only_where_the_protocol_is_the_same(changed: dict) -> None:
    other = replace(GILL, protocol={**PROTOCOL, **changed})
    assert "GILL 0.612" not in table([other])
    assert f"Not the same: {next(iter(changed))}" in table([GILL, other])


def test_results_of_different_tasks_do_not_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    GILL.write(tmp_path / "a.json")
    replace(GILL, task="visdial generation").write(tmp_path / "b.json")
    assert main(["evaluate", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    assert capsys.readouterr().err == (
        "error: Results of different tasks cannot be compared: visdial generation, vist generation\n"
    )


def test_results_read_as_they_were_written(tmp_path: Path) -> None:
    PLAIN.write(tmp_path / "out/results.json")
    assert Results.read(tmp_path / "out") == PLAIN
    assert main(["evaluate", "compare", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON, or only the beginning of one"),
        ("{", "no JSON, or only the beginning of one"),
        ("[]", "holds no results of an evaluation"),
        ('{"format": "gill-results", "format_version": 9}', "has the format_version 9, expected 1"),
        ('{"format": "gill-results", "format_version": 1}', "lacks or misspells a field"),
        (
            '{"format": "gill-results", "format_version": 1, "figures": [], "left_out": [], "task": "", "system": {}, '
            '"protocol": {}, "made_with": {}}',
            "holds no metrics",
        ),
    ],
)
def test_a_file_without_results_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "results.json").write_text(text)
    assert main(["evaluate", "compare", str(tmp_path / "results.json")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


def test_the_interval_covers_what_a_normal_mean_would_be_given() -> None:
    values = [(number % 10) / 10 for number in range(1000)]
    low, high = interval_of_mean(values) or (0, 0)
    assert (low, high) == pytest.approx((0.45 - 1.96 * 0.287 / 1000**0.5, 0.45 + 1.96 * 0.287 / 1000**0.5), abs=0.003)
    assert interval_of_mean(values) == (low, high) and interval_of_mean([0.5]) is None
