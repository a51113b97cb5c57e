"""The card as a whole text, its metadata, and what is read for it from a folder."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from evaluation_gill.results import LeftOut, MetricValue, Results
from gill import cli
from hub_card.card import make_card, metadata
from hub_card.edits import parse
from hub_card.facts import Adapters, BaseModel, Facts, RetrievalSet, Sample, Training
from hub_card.gathering import gather
from hub_card.samples import answer_prompts, read_samples
from modeling_gill.fingerprint_gill import fingerprint_weights
from pipeline_gill import GillPipeline
from tests.hub_fixtures import TestHub, card_problems

RESULTS = Results(
    "vist generation",
    {"kind": "gill", "name": "org/gill", "revision": None},
    {
        "data": "VIST",
        "annotations": "val.story-in-sequence.json",
        "annotations_sha256": "ab" * 32,
        "limit": None,
        "context": "all captions",
        "seed": 42,
        "drawing": {"steps": 50, "guidance": 7.5},
    },
    [MetricValue("clip_image_similarity", 0.612345678, 4990, (0.609, 0.615)), MetricValue("lpips", 0.7, 1)],
    [LeftOut("story 7", "lost")],
)
FACTS = Facts(
    name="gill",
    repo_id="org/gill",
    license="apache-2.0",
    base_models=[
        BaseModel("language model", "facebook/opt-6.7b", revision="a45aa65", license="other"),
        BaseModel("image encoder", "clip-here", on_hub=False),
    ],
    adapters=Adapters(50_123_456, 200_493_824, "float32", {"[IMG] tokens": 8, "mapper": "gill_mapper"}),
    training=Training("org/pairs", True, {"steps": 20000, "learning_rate": 0.001}, {"torch": "2.13.0"}),
    retrieval_set=RetrievalSet(2_700_000, "0a1b2c3d-4e5f6a7b", "org/gill-retrieval-set", "f" * 40, "CC3M"),
    results=[RESULTS],
    samples=[Sample("a dog | a cat", "retrieve", 0.712, "samples/00-retrieved.png", "samples/00-generated.png")],
    sample_grid="samples/grid.png",
    languages=["en"],
    datasets=["org/pairs"],
)


def test_the_whole_card_says_all_that_is_known_and_each_figure_with_its_protocol() -> None:
    expected = Path(__file__).with_name("expected_card.md").read_text(encoding="utf-8")
    assert make_card(FACTS) == expected


def test_what_is_not_known_is_left_out() -> None:
    text = make_card(Facts("gill"))
    head = parse(text)
    assert set(head.sections) == {"summary", "loading", "limits", "citation"}
    assert set(head.metadata) == {"library_name", "pipeline_tag", "tags"}
    assert "None" not in text and "This checkpoint was not evaluated." in text


def test_metadata_is_what_the_hub_accepts_and_reads_back(
    hub_in_this_process: TestHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert card_problems(make_card(FACTS)) == card_problems(make_card(Facts("gill"))) == []
    card = ModelCard(make_card(FACTS))
    assert card.data.base_model == ["facebook/opt-6.7b"] and card.data.pipeline_tag == "any-to-any"
    assert card.data.datasets == ["org/pairs", "org/gill-retrieval-set"]
    results = card.data.eval_results
    assert results is not None and [one.metric_type for one in results] == ["clip_image_similarity", "lpips"]
    assert results[0].metric_value == 0.612346
    args = results[0].metric_args
    assert args is not None and args["interval_95"] == [0.609, 0.615] and args["protocol"]["context"] == "all captions"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub_in_this_process.url)
    monkeypatch.setattr("huggingface_hub.repocard.constants.ENDPOINT", hub_in_this_process.url)
    card.validate()
    assert hub_in_this_process.requests[-1].path == "/api/validate-yaml"


def test_baselines_stand_in_the_text_but_not_as_results_of_this_model() -> None:
    baseline = replace(RESULTS, system={"kind": "generator", "name": "org/sd", "revision": None})
    assert "baseline generator org/sd" in make_card(replace(FACTS, results=[baseline]))
    assert "model-index" not in metadata(replace(FACTS, results=[baseline]))


def test_a_model_that_only_retrieves_is_not_said_to_generate() -> None:
    text = make_card(Facts("fromage", retrieves_only=True))
    assert "2301.13823" in text and "generat" not in text.split("## Citation")[0].replace("gill:", "")
    assert "text-to-image" not in parse(text).metadata["tags"]


def test_a_model_without_retrieval_is_called_dreamllm_and_says_nothing_of_retrieval() -> None:
    bases = [BaseModel("image encoder", "openai/clip-vit-large-patch14")]
    text = make_card(Facts("dream", base_models=bases, generates_only=True, holds_language_model=True, decides=False))
    assert "DreamLLM" in text
    assert "holds the language model" in text
    assert "retriev" not in text.lower()
    assert "dong2024dreamllm" in text


def test_only_a_model_with_frozen_base_models_is_said_to_inherit_their_faults() -> None:
    card = make_card(replace(FACTS, base_models=[]))
    assert "errors and biases of its frozen models" in make_card(FACTS) and "faults of its frozen models" not in card
    assert "of its training data" in card


def test_sets_of_records_are_named_by_their_files(small_repository: Path) -> None:
    sets = [
        {"kind": "documents", "files": "/somewhere/mmc4/*.tar", "size": 7},
        {"kind": "pairs", "files": ["/somewhere/a.tar", "b.tar"]},
    ]
    (small_repository / "training.json").write_text(json.dumps({"data": {"train_data": sets}}))
    training = gather(small_repository, repo_id="org/gill", license="mit").training
    assert training is not None and (training.data, training.data_on_hub) == ("*.tar, a.tar, b.tar", False)


def test_a_template_with_an_unknown_field_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("{{ name }} {{ colour }}")
    with pytest.raises(ValueError, match="uses an unknown name: 'colour' is undefined"):
        make_card(FACTS, tmp_path / "t.jinja")
    (tmp_path / "t.jinja").write_text("{% if %}")
    with pytest.raises(ValueError, match="is not a jinja template"):
        make_card(FACTS, tmp_path / "t.jinja")


def test_facts_are_read_from_the_folder_itself(small_repository: Path, small_set: Path) -> None:
    (small_repository / "training.json").write_text(
        json.dumps(
            {
                "recipe": "small.yaml",
                "steps": 12,
                "versions": {"torch": "2.13.0"},
                "data": {"train_data": "/somewhere/of/mine/pairs.tsv", "max_length": 32},
                "training": {"max_steps": 100, "learning_rate": 0.001, "hub_token": "hf_secret"},
                "losses": {"captioning_weight": 1.0},
            }
        )
    )
    facts = gather(small_repository, repo_id="org/gill", retrieval_set=small_set, license="mit")
    assert facts.training == Training(
        "pairs.tsv",
        False,
        {"steps": 12, "learning_rate": 0.001, "captioning_weight": 1.0, "max_length": 32},
        {"torch": "2.13.0"},
    )
    assert facts.adapters is not None and facts.adapters.sizes["[IMG] tokens"] == 3
    assert facts.retrieval_set is not None and facts.retrieval_set.images == 4
    assert facts.retrieval_set.source == "four reds" and facts.base_models == []
    text = make_card(facts)
    assert "/somewhere" not in text and "hf_secret" not in text


def test_licenses_of_base_models_are_the_users_word_or_that_of_their_own_cards(
    small_repository: Path, tmp_path: Path
) -> None:
    config = json.loads((small_repository / "config.json").read_text())
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm/README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
    config |= {"language_model_id": str(tmp_path / "lm"), "vision_model_id": "org/clip", "image_generator_id": "org/sd"}
    (small_repository / "config.json").write_text(json.dumps(config))
    facts = gather(small_repository, base_licenses={"image_generator": "openrail"})
    assert [(base.name, base.license) for base in facts.base_models] == [
        ("lm", "bsd-3-clause"),
        ("org/clip", None),
        ("org/sd", "openrail"),
    ]
    assert parse(make_card(facts)).metadata["base_model"] == ["org/clip", "org/sd"]
    with pytest.raises(ValueError, match="Unknown base model 'vae'; expected language_model, vision_model"):
        gather(small_repository, base_licenses={"vae": "mit"})


def test_figures_of_other_weights_do_not_get_into_the_card(small_repository: Path, tmp_path: Path) -> None:
    pipeline = GillPipeline.from_pretrained(small_repository)
    names = sorted(name for name, _ in pipeline.model.named_parameters() if not name.startswith(("language", "vision")))
    own = fingerprint_weights({"adapters": (pipeline.model.get_parameter(name) for name in names)})
    other = fingerprint_weights({"adapters": (pipeline.model.get_parameter(name) * -1 for name in names[1:])})
    for name, fingerprint in (("own", own), ("other", other)):
        replace(RESULTS, system={**RESULTS.system, "fingerprint": fingerprint}).write(tmp_path / f"{name}.json")
    assert gather(small_repository, results=[tmp_path / "own.json"]).results
    with pytest.raises(ValueError, match=r"other.json was measured with the weights .* evaluate these"):
        gather(small_repository, results=[tmp_path / "other.json"])


@pytest.mark.parametrize("lacking", ["config.json", "pipeline_gill.py", "model.safetensors"])
def test_a_folder_that_is_no_whole_repository_is_told(
    small_repository: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    (small_repository / lacking).unlink()
    assert cli.main(["card", str(small_repository)]) == 2
    assert f"gill lacks {lacking}; expected a whole repository" in capsys.readouterr().err
    assert not (small_repository / "README.md").exists()


def test_results_that_are_in_the_folder_are_read_without_being_named(small_repository: Path) -> None:
    place = small_repository / "results" / "vist"
    place.mkdir(parents=True)
    replace(RESULTS, system={"kind": "gill"}).write(place / "results.json")
    assert gather(small_repository).results[0].metrics == RESULTS.metrics
    assert len(gather(small_repository, results=[place]).results) == 1


def test_an_empty_results_file_is_named_and_nothing_is_written(
    small_repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").touch()
    assert cli.main(["card", str(small_repository), "--results", str(tmp_path / "results.json")]) == 2
    error = capsys.readouterr().err
    assert "results.json is no JSON, or only the beginning of one" in error and error.count("\n") == 1
    assert not (small_repository / "README.md").exists()


def test_a_card_made_again_keeps_its_edits(small_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["card", str(small_repository), "--license", "mit"]) == 0
    place = small_repository / "README.md"
    place.write_text(place.read_text().replace("## Limits and risks", "Thanks to all.\n\n## Limits and risks"))
    assert cli.main(["card", str(small_repository), "--license", "apache-2.0", "--repo-id", "org/gill"]) == 0
    text = place.read_text()
    assert "Thanks to all." in text and 'from_pretrained("org/gill")' in text and "license: apache-2.0" in text
    assert "kept as you have it: the section 'limits'" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "expected"), [([], None), (["--steps", "3"], 3)])
def test_samples_take_the_steps_of_the_repository_unless_others_are_given(
    small_repository: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], expected: int | None
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("hub_card.writing.answer_prompts", lambda *_, **drawing: calls.append(drawing))
    assert cli.main(["card", str(small_repository), "--prompt", "a dog", *given]) == 0
    assert [call["num_inference_steps"] for call in calls] == [expected]


def test_samples_are_answered_drawn_into_a_grid_and_shown(golden_pipeline: GillPipeline, tmp_path: Path) -> None:
    assert golden_pipeline.retrieval_set is not None
    quick = {"num_inference_steps": 1, "height": 16, "width": 16}
    samples = answer_prompts(golden_pipeline, ["a dog", "a cat"], tmp_path / "samples", **quick)
    assert samples == read_samples(tmp_path / "samples") and len(samples) == 2
    assert samples[0].retrieved == "samples/00-retrieved.png" and samples[0].decision in ("retrieve", "generate")
    text = make_card(Facts("gill", samples=samples, sample_grid="samples/grid.png"))
    for name in re.findall(r"\]\((samples/[^)]+)\)", text):
        assert (tmp_path / name).is_file()
    (tmp_path / "samples/00-retrieved.png").unlink()
    with pytest.raises(OSError, match="names the image 00-retrieved"):
        read_samples(tmp_path / "samples")


def test_the_record_of_the_decision_heads_training_is_told() -> None:
    record = {
        "annotations": "votes.tsv",
        "train_prompts": 9,
        "validation_prompts": 4,
        "macro_f1": 0.75,
        "accuracy": 0.5,
    }
    card = make_card(replace(FACTS, results=[], decision=record))
    assert "trained on 9 prompts of votes.tsv" in card and "macro F1 is 0.750 and its accuracy 0.500" in card
    assert "Nothing was measured" not in card
