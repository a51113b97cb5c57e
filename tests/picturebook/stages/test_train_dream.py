"""DreamLLM between the picture book's models, a few steps of each training."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from picturebook.arguments import DreamArguments
from picturebook.models.dreamllm import load_dreamllm_pipeline
from picturebook.stages import train_dream as module
from picturebook.stages.train_dream import DreamSettings, train_dream

_SHORT = {"max_steps": 1, "per_device_train_batch_size": 2, "warmup_steps": 0, "logging_steps": 1}


@pytest.mark.slow
def test_both_stages_run_one_after_the_other_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded = tmp_path / "embedded"
    monkeypatch.setattr(module, "FAST", DreamSettings(8, 6, _SHORT, _SHORT, _SHORT))
    monkeypatch.setattr(module, "DREAMLLM", embedded)
    folder = train_dream(DreamArguments(out=tmp_path / "run", fast=True, embed=True))
    capsys.readouterr()
    assert train_dream(DreamArguments(out=tmp_path / "run", fast=True)) == folder
    assert capsys.readouterr().out.count("is finished by this recipe already") == 3

    trained = {
        name: json.loads((tmp_path / "run" / name / "training.json").read_text())["losses"]["train"]
        for name in ("pairs", "stories")
    }
    assert set(trained["stories"]) - set(trained["pairs"]) == {"language_model"}

    # Half precision, without what the checkpoint has, and without a name of a folder of this machine.
    weights = load_file(embedded / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert not any(name.startswith("vision_model") for name in weights)
    assert str(tmp_path) not in (embedded / "config.json").read_text()
    pipe = load_dreamllm_pipeline(embedded)
    out = pipe("a red house on the left at night . picture :", force_image=True, num_inference_steps=1)
    assert out.images[0].size == (32, 32)
