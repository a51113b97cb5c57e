"""One writer of repositories: whole at every instant, nothing of an earlier save that contradicts, nothing lost."""

import json
import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline, RetrievalSet
from pipeline_gill.repository_writer_gill import repository_folder, write_repository
from tests.examples import run_example
from tests.killing import killed_at_every_file_operation
from tests.small_model import small_model, small_processor

PEOPLES_FILES = {
    "README.md": "# Mine",
    "results/vist.json": "{}",
    "samples/config.json": "{}",
    "checkpoint-3/model.safetensors": "3",
    "notes.txt": "n",
}


@pytest.fixture(scope="module")
def processor() -> Any:
    return small_processor()


@pytest.fixture
def model(processor: Any) -> GillForConditionalGeneration:
    return small_model(processor)


def retrieval_set(model: GillForConditionalGeneration) -> RetrievalSet:
    return RetrievalSet.from_embeddings(["a.png"], torch.ones(1, 8), model.retrieval_fingerprint())


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_save_removes_what_contradicts_it_and_keeps_what_is_peoples_own(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_repository(out, model, processor, retrieval_set=retrieval_set(model), max_shard_size="20KB")
    put(out, {**PEOPLES_FILES, "unet/config.json": "{}", "old_gill.py": "", "language_model_lora/x": ""})
    assert len(list(out.glob("model-*.safetensors"))) > 1
    write_repository(out, model, processor, extra_files={"results/new.json": {"a": 1}, "training.json": "{}"})
    found = content(out)
    assert {name: found[name].decode() for name in PEOPLES_FILES} == PEOPLES_FILES
    assert json.loads(found["results/new.json"]) == {"a": 1}
    weights = {name for name in found if name.startswith("model") and not name.endswith(".py")}
    assert weights == {"model.safetensors", "model_index.json"}
    assert not [
        name for name in found if name.startswith(("retrieval_set/", "unet/", "old_gill", "language_model_lora/"))
    ]
    assert GillPipeline.from_pretrained(out).model.config.is_self_contained


def test_saving_the_model_alone_replaces_its_weights_and_nothing_else(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_repository(out, model, processor, retrieval_set=retrieval_set(model), max_shard_size="20KB")
    put(out, {**PEOPLES_FILES, "model.fp16.safetensors": "other variant"})
    before = content(out)
    model.save_pretrained(out)
    found = content(out)
    assert before.keys() - found.keys() == {
        name for name in before if name.startswith("model-") or name == "model.safetensors.index.json"
    }
    assert found.keys() - before.keys() == {"model.safetensors"}
    assert os.listdir(tmp_path) == ["out"]


def test_the_example_runs(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example(write_repository, pipe=SimpleNamespace(model=model, processor=processor))
    assert (tmp_path / "my_gill/results/vist.json").is_file()


def test_files_have_the_mode_that_the_umask_asks_for(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    write_repository(tmp_path / "out", model, processor, retrieval_set=retrieval_set(model))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "any").write_text("")
    expected = stat.S_IMODE((tmp_path / "any").stat().st_mode)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (expected | 0o111 if path.is_dir() else expected), path
        assert not path.is_dir() or stat.S_IMODE(path.stat().st_mode) & 0o500 == 0o500


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("modeling_gill.processing_gill.GillProcessor.save_pretrained", OSError(28, "No space left on device")),
        ("transformers.modeling_utils.safe_save_file", SafetensorError("I/O error: No space left on device")),
    ],
)
def test_no_space_in_the_middle_leaves_the_old_repository(
    model: GillForConditionalGeneration,
    processor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: Exception,
) -> None:
    write_repository(tmp_path / "out", model, processor)
    before = content(tmp_path / "out")

    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(where, full)
    model.img_embeddings.weight.data.mul_(2)
    with pytest.raises(OSError, match="No space"):
        write_repository(tmp_path / "out", model, processor)
    assert content(tmp_path / "out") == before and os.listdir(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["repository", "model"])
def test_killed_at_any_instant_a_reader_finds_the_old_repository_or_the_new_one(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path, part: str
) -> None:
    out = tmp_path / "out"
    old_set = retrieval_set(model)

    def write_old() -> None:
        model.img_embeddings.weight.data.fill_(1)
        write_repository(out, model, processor, retrieval_set=old_set, max_shard_size="20KB")

    def write_new() -> None:
        model.img_embeddings.weight.data.fill_(2)
        if part == "model":
            model.save_pretrained(out)
        else:
            write_repository(out, model, processor)

    write_old()
    put(out, PEOPLES_FILES)
    old = content(out)
    new = None
    states = set()
    for number in killed_at_every_file_operation(write_new, sparse=40, dense=140):
        now = content(out)
        new = new or now
        assert now.keys() in (old.keys(), new.keys()), f"operation {number}"
        whole = [
            all(now[name] == state[name] for name in now if "weights" in name or name.startswith("model"))
            for state in (old, new)
            if state.keys() == now.keys()
        ]
        assert any(whole), f"operation {number}"
        assert (
            PEOPLES_FILES.items()
            <= {name: text.decode() for name, text in now.items() if name in PEOPLES_FILES}.items()
        )
        states.add(frozenset(now))
        write_old()
        assert os.listdir(tmp_path) == ["out"]
    assert len(states) == 2


def test_weights_of_a_variant_lie_beside_the_others(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    write_repository(tmp_path / "out", model, processor)
    write_repository(tmp_path / "out", model.half(), processor, variant="fp16")
    assert {path.name for path in (tmp_path / "out").glob("model*.safetensors")} == {
        "model.safetensors",
        "model.fp16.safetensors",
    }


def test_a_part_that_is_written_anew_leaves_the_others(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    """As the decision head is written into a repository."""
    write_repository(tmp_path / "out", model, processor, retrieval_set=retrieval_set(model))
    before = content(tmp_path / "out")
    model.img_embeddings.weight.data.mul_(2)
    with repository_folder(tmp_path / "out", parts=("model",)) as folder:
        model.save_pretrained(folder)
    after = content(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"model.safetensors"}


# --- the components of the image generator -------------------------------------------------------------------------


@pytest.fixture
def pipe(golden_repository: Path) -> GillPipeline:
    pipe = GillPipeline.from_pretrained(golden_repository)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def folders(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir() if entry.is_dir()} - {"retrieval_set"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_unchanged_generator_is_referred_to_whatever_its_dtype(
    pipe: GillPipeline, tmp_path: Path, dtype: torch.dtype
) -> None:
    for there_and_back in (torch.float32, dtype, torch.float32):
        pipe.to(there_and_back).save_pretrained(tmp_path / "out")
        assert folders(tmp_path / "out") == set()


def test_a_changed_scheduler_is_saved_and_loaded(pipe: GillPipeline, tmp_path: Path) -> None:
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.save_pretrained(tmp_path / "out")
    assert folders(tmp_path / "out") == {"scheduler"}
    loaded = GillPipeline.from_pretrained(tmp_path / "out")
    assert isinstance(loaded.scheduler, DDIMScheduler) and loaded.scheduler.config.timestep_spacing == "trailing"
    # The rest still comes from the generator's repository; and it is kept when it is saved again.
    assert loaded.model.config.image_generator_id is not None
    loaded.save_pretrained(tmp_path / "again")
    assert folders(tmp_path / "again") == {"scheduler"}


def test_changed_weights_of_a_generator_are_saved_and_loaded(pipe: GillPipeline, tmp_path: Path) -> None:
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.mul_(1.001)
    pipe.save_pretrained(tmp_path / "out")
    assert folders(tmp_path / "out") == {"unet"}
    loaded = GillPipeline.from_pretrained(tmp_path / "out")
    for ours, theirs in zip(pipe.unet.parameters(), loaded.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_lora_of_a_generator_is_refused_rather_than_lost(pipe: GillPipeline, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipe.unet.add_adapter(peft.LoraConfig(r=1, target_modules=["to_q"]))
    for options in ({}, {"self_contained": True}):
        with pytest.raises(ValueError, match=r"'unet' carries LoRA.*fuse_lora"):
            pipe.save_pretrained(tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


def test_a_self_contained_repository_names_no_folder_of_this_machine(pipe: GillPipeline, tmp_path: Path) -> None:
    pipe.retrieval_set = None
    pipe.save_pretrained(tmp_path / "out", self_contained=True)
    assert json.loads((tmp_path / "out/config.json").read_text())["image_generator_id"] is None
    for path in (tmp_path / "out").rglob("*.json"):
        assert str(tmp_path.parents[1]) not in path.read_text(), path


def test_an_unknown_component_is_refused(model: GillForConditionalGeneration, processor: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no component 'Unet'"):
        write_repository(tmp_path / "out", model, processor, generator={"Unet": None})
    assert os.listdir(tmp_path) == []


def test_the_model_can_be_loaded_with_its_own_weights(
    model: GillForConditionalGeneration, processor: Any, tmp_path: Path
) -> None:
    write_repository(tmp_path / "out", model, processor)
    weights = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(weights["img_embeddings.weight"], model.img_embeddings.weight)
