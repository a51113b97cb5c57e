"""A training that was stopped ends as one that was not."""

from pathlib import Path

import pytest
import torch
from torch import nn

from picturebook.stages.training_loop import Part, Schedule, run_parts


class Stopped(Exception):
    pass


def train(folder: Path, stop_at: int | None = None, **more: float) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(3, 1)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        if step == stop_at:
            raise Stopped
        inputs = torch.randn(8, 3, generator=generator).to(module.weight.device)
        return (module(inputs) - inputs.sum(1, keepdim=True)).pow(2).mean()

    run_parts("line", module, [Part(Schedule(40, 8, 0.05, warmup=5, **more), loss_of_step)], folder)
    return module


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_stopped_training_resumes_and_ends_like_one_that_was_not_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ema: float
) -> None:
    whole = train(tmp_path / "whole", ema=ema)
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", stop_at=17, ema=ema)
    assert [path.name for path in (tmp_path / "stopped" / "1").iterdir()] == ["checkpoint-16"]
    resumed = train(tmp_path / "stopped", ema=ema)
    assert "resumes from step 16 of 40" in capsys.readouterr().out
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=0)
    # Stopped after its last checkpoint, before its result was written.
    (tmp_path / "stopped" / "part-1.safetensors").unlink()
    again = train(tmp_path / "stopped", stop_at=0, ema=ema)
    torch.testing.assert_close(again.weight, whole.weight, rtol=0, atol=0)


def test_training_learns_and_ends_in_evaluation_mode(tmp_path: Path) -> None:
    module = train(tmp_path)
    assert not module.training
    torch.testing.assert_close(module.weight.detach(), torch.ones(1, 3), rtol=0, atol=0.2)


def test_a_half_written_checkpoint_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for state in (None, "{"):
        checkpoint = tmp_path / "1" / "checkpoint-9"
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / "model.safetensors").write_bytes(b"half")
        if state is not None:
            (checkpoint / "trainer_state.json").write_text(state)
        with pytest.raises(Stopped):
            train(tmp_path, stop_at=2)
        assert "resumes from step 9" not in capsys.readouterr().out


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, stop_at=17)
    other = nn.Linear(5, 1)
    part = Part(Schedule(40, 8, 0.05), lambda step, generator: other(torch.ones(1, 5)).mean())
    with pytest.raises(ValueError, match="checkpoint-16 is not of this model"):
        run_parts("line", other, [part], tmp_path)


def test_parts_that_are_done_are_not_done_again_and_what_is_frozen_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    before = module[0].weight.detach().clone()
    asked: list[str] = []

    def part(name: str, **more: object) -> Part:
        def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
            asked.append(name)
            return (module(torch.randn(4, 3, generator=generator)) - 1).pow(2).mean()

        return Part(Schedule(3, 4, 0.05, warmup=1), loss_of_step, **more)

    run_parts("two", module, [part("first", frozen=(module[0],))], tmp_path)
    assert torch.equal(module[0].weight, before) and module[0].weight.requires_grad
    first = module[1].weight.detach().clone()
    nn.init.zeros_(module[1].weight)
    seconds = run_parts("two", module, [part("again"), part("second")], tmp_path)
    assert asked == ["first"] * 3 + ["second"] * 3
    assert seconds > 0 and not torch.equal(module[0].weight, before) and not torch.equal(module[1].weight, first)
