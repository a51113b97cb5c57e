"""The authors' `model_args.json` and `.pth.tar` files are read without running them, and bad ones are named."""

import os
import pickle
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conversion.original_files import (
    CHECKPOINT_NAMES,
    ConversionError,
    find_checkpoint,
    load_checkpoint,
    read_settings,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "pretrained_ckpt.pth.tar"
    state = OrderedDict(
        [("module.model.a", torch.arange(1000.0)), ("model.b", torch.tensor(2.0, dtype=torch.bfloat16))]
    )
    torch.save({"state_dict": state}, path)
    return path


class Canary:
    """Unpickling this by ordinary means makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.path}",))


def test_names_lose_module_and_tensors_keep_values_and_dtype(checkpoint: Path) -> None:
    read = load_checkpoint(checkpoint)
    assert read.tensors.keys() == {"model.a", "model.b"}
    assert torch.equal(read.tensors["model.a"], torch.arange(1000.0))
    assert read.tensors["model.b"].dtype == torch.bfloat16
    assert read.left_out == {}


def test_the_released_decision_head_reads_without_a_gpu(reference: Path) -> None:
    read = load_checkpoint(reference / "gill_decision_model.pth.tar")
    assert {name: tuple(t.shape) for name, t in read.tensors.items()} == {"1.weight": (2, 4096), "1.bias": (2,)}
    assert all(tensor.device.type == "cpu" for tensor in read.tensors.values())


def test_files_of_torch_before_1_6_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth.tar"
    torch.save({"state_dict": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path).tensors["a"], torch.ones(3))


def test_a_file_that_is_no_zip_is_never_taken_for_a_tar_whose_headers_may_have_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("it was asked whether it is a tar"))
    path = tmp_path / "old.pth.tar"
    torch.save({"state_dict": {"a": torch.ones(3)}}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(path).tensors["a"], torch.ones(3))
    path.write_bytes(tarfile.TarInfo("storages").tobuf() + bytes(1024))
    with pytest.raises(ConversionError, match=r"old\.pth\.tar is refused"):
        load_checkpoint(path)


def test_a_checkpoint_straight_out_of_training_is_read_and_its_training_state_left_out(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    step = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    # The authors' warm-up scheduler keeps another scheduler as an object, and that one the optimizer.
    training = {
        "epoch": 3,
        "best_acc1": np.float64(1.5),
        "optimizer": optimizer.state_dict(),
        "scheduler": {"after": step},
    }
    path = tmp_path / "ckpt.pth.tar"
    torch.save({"state_dict": layer.state_dict(), **training}, path)
    read = load_checkpoint(path)
    assert torch.equal(read.tensors["weight"], layer.weight)
    assert read.left_out.keys() == training.keys()
    assert all("training state" in reason for reason in read.left_out.values())


def test_a_second_copy_of_a_tensor_is_left_out_and_another_value_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pth.tar"
    torch.save({"state_dict": {"module.a": torch.ones(3), "a": torch.ones(3)}}, path)
    assert load_checkpoint(path).left_out == {"a": "second copy of a"}
    torch.save({"state_dict": {"module.a": torch.ones(3), "a": torch.zeros(3)}}, path)
    with pytest.raises(ConversionError, match=r"two different tensors for a\b"):
        load_checkpoint(path)


@pytest.mark.parametrize("size", [0, 3, 30, 2000, -50])
def test_a_cut_off_checkpoint_is_named(checkpoint: Path, size: int) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:size])
    with pytest.raises(ConversionError, match=r"pretrained_ckpt\.pth\.tar.*(truncated|empty|not a checkpoint)"):
        load_checkpoint(checkpoint)


def test_a_flipped_bit_is_noticed(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[content.index(torch.arange(1000.0).numpy().tobytes()) + 2001] ^= 0x40
    checkpoint.write_bytes(content)
    with pytest.raises(ConversionError, match="checksum"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"<html>404</html>", pickle.dumps([1, 2]), bytes(range(256))])
def test_bytes_of_another_kind_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pretrained_ckpt.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ConversionError, match=r"pretrained_ckpt\.pth\.tar"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {}}, "no `state_dict`.*`model`"),
        ([1], "no `state_dict`.*list"),
        ({"state_dict": {"a": torch.ones(1), "b": 3}}, "`b` of other types"),
        ({"state_dict": [1]}, "found a list"),
    ],
)
def test_what_a_checkpoint_holds_instead_is_said(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save(content, path)
    with pytest.raises(ConversionError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_checkpoint_is_refused_by_name_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "evil.pth.tar", tmp_path / "mark"
    content = {"state_dict": {"a": torch.ones(1)}, "optimizer": Canary(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConversionError, match=r"evil\.pth\.tar.*(posix|os)\.system"):
        load_checkpoint(path)
    assert not mark.exists()


def test_the_first_checkpoint_name_that_exists_is_taken(tmp_path: Path) -> None:
    for name in reversed(CHECKPOINT_NAMES):
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path).name == name


def test_a_folder_without_a_checkpoint_says_what_is_missing_and_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "model_args.json").touch()
    with pytest.raises(ConversionError, match=r"pretrained_ckpt\.pth\.tar is missing.*found model_args\.json"):
        find_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing.*`num_tokens`"),
        ("{", "not valid JSON"),
        ("[]", "a JSON list.*`num_tokens`"),
        ('{"opt_version": "x"}', "lacks `num_tokens`, `ret_emb_dim`"),
    ],
)
def test_bad_model_args_are_explained(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "model_args.json").write_text(content)
    with pytest.raises(ConversionError, match=rf"model_args\.json.*{message}"):
        read_settings(tmp_path, ("opt_version", "num_tokens", "ret_emb_dim"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="nowhere is not a folder"):
        read_settings(tmp_path / "nowhere", ())
