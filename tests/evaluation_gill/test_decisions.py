"""Annotations of decisions, the split that trains the head, its record, and macro F1."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation_gill import Results, decisions, evaluate
from evaluation_gill.decisions import (
    Annotation,
    AnnotationError,
    held_out_annotations,
    human_agreement,
    macro_f1,
    majority_label,
    read_annotations,
    read_split_record,
    split_annotations,
    split_record,
    without_ties,
)
from tests.examples import run_example

REFERENCE = Path(__file__).parents[1] / "reference"
CONFIDENT = REFERENCE / "PartiPromptsDecisionsConfident.tsv"
REALISM = REFERENCE / "PartiPromptsAllDecisions_Realism.tsv"


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ("generate generate generate generate retrieve", "generate"),
        ("retrieve retrieve retrieve retrieve retrieve", "retrieve"),
        ("generate generate generate retrieve tie", "generate"),
        ("retrieve retrieve retrieve tie tie", "retrieve"),
        ("generate generate generate retrieve retrieve", "tie"),
        ("generate generate retrieve retrieve tie", "tie"),
        ("tie tie tie tie generate", "tie"),
        ("generate generate generate retrieve", "generate"),
    ],
)
def test_votes_agree_at_four_equal_or_three_with_one_against(votes: str, label: str) -> None:
    assert majority_label(votes.split()) == label


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_votes_and_labels_are_read_in_the_models_words(tmp_path: Path) -> None:
    votes = write(
        tmp_path / "v.tsv", "Prompt\tCategory\tDecisions", 'a "cat"\tx\tgen,gen,gen,gen,ret', "sea\tx\tsame, ret"
    )
    assert read_annotations(votes) == [
        Annotation('a "cat"', "generate", ("generate", "generate", "generate", "generate", "retrieve")),
        Annotation("sea", "tie", ("tie", "retrieve")),
    ]
    labels = write(tmp_path / "l.tsv", "Prompt\tDecision", "a cat\tret")
    assert read_annotations(labels) == [Annotation("a cat", "retrieve")]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\r", "\x1c"])
def test_unusual_line_separators_are_text_and_a_byte_order_mark_is_none(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(f"Prompt\tDecision\r\na{separator}cat\tgen\r\n".encode("utf-8-sig"))
    assert [(one.prompt, one.label) for one in read_annotations(path)] == [(f"a{separator}cat", "generate")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "is empty"),
        (["Prompt\tDecision"], "only a header"),
        (["Prompt\tVotes", "a\tgen"], "has the columns"),
        (["Prompt\tDecisions", "a"], "line 2: 1 fields, expected 2"),
        (["Prompt\tDecisions", "a\tgen\tret"], "line 2: 3 fields, expected 2"),
        (["Prompt\tDecisions", "a\tgen,maybe"], r"line 2: unknown votes \['maybe'\]"),
        (["Prompt\tDecision", "\tgen"], "line 2"),
    ],
)
def test_a_file_of_something_else_is_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_annotations(write(tmp_path / "a.tsv", *lines))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"none\.tsv' cannot be read"):
        read_annotations(tmp_path / "none.tsv")


def labelled(count: int) -> list[Annotation]:
    return [Annotation(f"prompt {number}", "generate") for number in range(count)]


def test_the_first_prompts_train_or_those_that_a_seed_draws() -> None:
    annotations = [*labelled(10), Annotation("undecided", "tie")]
    train, validation = split_annotations(annotations, 6)
    assert [*train, *validation] == annotations[:10] and len(train) == 6
    drawn, rest = split_annotations(annotations, 6, seed=1)
    assert {one.prompt for one in [*drawn, *rest]} == {one.prompt for one in annotations[:10]}
    assert drawn == split_annotations(annotations, 6, seed=1)[0] != train
    with pytest.raises(AnnotationError, match="10 prompts"):
        split_annotations(annotations, 10)


@pytest.mark.parametrize("file", [CONFIDENT, REALISM])
@pytest.mark.parametrize("seed", [None, 0])
def test_no_prompt_that_trained_the_head_is_held_out_in_any_file(file: Path, seed: int | None) -> None:
    train, _ = split_annotations(read_annotations(CONFIDENT), seed=seed)
    record = split_record(CONFIDENT, train, seed)
    trained, rest = held_out_annotations(read_annotations(file), file, json.loads(json.dumps(record)))
    assert trained and rest and not {one.prompt for one in rest} & {one.prompt for one in train}
    assert len(trained) + len(rest) == len(without_ties(read_annotations(file)))


def test_prompts_are_recognised_in_another_spelling() -> None:
    record = split_record("a.tsv", [Annotation("A  Café at night", "generate")])
    trained, rest = held_out_annotations([Annotation("a cafe\u0301 at night ", "retrieve")], "b.tsv", record)
    assert len(trained) == 1 and not rest


def test_a_split_that_contradicts_the_heads_record_is_refused() -> None:
    annotations = labelled(10)
    record = split_record("a.tsv", split_annotations(annotations, 6, seed=1)[0], 1)
    with pytest.raises(ValueError, match=r"trained the decision head, 'prompt \d' for one"):
        held_out_annotations(annotations, "a.tsv", record, train_prompts=6)
    first = split_record("a.tsv", annotations[:6])
    assert held_out_annotations(annotations, "a.tsv", first, train_prompts=6)[1] == annotations[6:]


def without_fingerprints(record: dict) -> dict:
    return {name: value for name, value in record.items() if name != "trained_on"} | {"prompts_agreed_on": 10}


@pytest.mark.parametrize("seed", [None, 1])
def test_the_record_of_an_earlier_version_holds_for_its_own_file(seed: int | None) -> None:
    annotations = labelled(10)
    train, validation = split_annotations(annotations, 6, seed)
    record = without_fingerprints(split_record("PartiPrompts1.tsv", train, seed))
    _, rest = held_out_annotations(annotations, "elsewhere/PartiPrompts1.tsv", record)
    assert {one.prompt for one in rest} == {one.prompt for one in validation}
    with pytest.raises(ValueError, match="does not say which prompts of 'PartiPrompts1"):
        held_out_annotations(annotations, "PartiPrompts2.tsv", record)
    assert held_out_annotations(annotations, "mine.tsv", record) == ([], annotations)


def test_a_model_without_a_record_was_trained_on_the_papers_split(tmp_path: Path) -> None:
    assert read_split_record(str(tmp_path)) is None
    trained, rest = held_out_annotations(labelled(700), "a.tsv", None)
    assert (len(trained), len(rest)) == (600, 100)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/decision.json").write_text(content)
    with pytest.raises(ValueError, match=r"decision\.json"):
        read_split_record(str(tmp_path))


@pytest.mark.parametrize(
    ("predicted", "true", "score"), [([0, 0, 1, 1], [0, 0, 1, 1], 1), ([0, 0, 0, 0], [0, 0, 0, 1], (6 / 7 + 0) / 2)]
)
def test_macro_f1_is_the_mean_over_both_classes(predicted: list[int], true: list[int], score: float) -> None:
    assert macro_f1(np.array(predicted), np.array(true)) == pytest.approx(score)


def test_single_annotators_are_measured_against_what_all_agreed_on() -> None:
    sure = Annotation("a", "generate", ("generate",) * 5)
    unsure = Annotation("b", "retrieve", ("retrieve",) * 4 + ("tie",))
    against = Annotation("c", "generate", ("generate",) * 4 + ("retrieve",))
    agreement: Callable[..., float | None] = human_agreement
    assert agreement([sure, unsure]) == 1 and agreement([Annotation("a", "generate")]) is None
    assert 0 < (agreement([against, unsure]) or 0) < 1


def test_the_examples_of_the_docstrings_give_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("votes.tsv"), "Prompt\tDecision", "a cat\tgen", "the sea\tret")
    for documented in (evaluate, decisions.majority_label, decisions.macro_f1, Results):
        run_example(documented)
