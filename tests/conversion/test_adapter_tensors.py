"""Every tensor of a checkpoint is used or named as left out, and all that is wrong is said at once."""

from pathlib import Path

import pytest
import torch

from conversion.adapter_tensors import TensorSource, format_report, map_tensors, round_to
from conversion.original_files import Checkpoint, ConversionError

EXPECTED = {"head.weight": (2, 3), "head.bias": (2,), "scale": (), "img_embeddings.weight": (2, 3)}
IDS = [4, 5]


def tensors() -> dict[str, torch.Tensor]:
    return {
        "m.fc.weight": torch.ones(2, 3),
        "m.fc.bias": torch.ones(2),
        "m.scale": torch.tensor(1.0),
        "m.rows": torch.arange(6.0).reshape(2, 3),
    }


def source(tensors: dict[str, torch.Tensor], left_out: dict[str, str] | None = None) -> TensorSource:
    renames = {"m.fc": "head", "m.scale": "scale", "m.old": "old"}
    checkpoint = Checkpoint(Path("c.pth.tar"), tensors, left_out or {})
    return TensorSource(checkpoint, renames, {"m.lm": "frozen"}, ("ret", "m.rows"))


def test_each_parameter_gets_its_tensor_and_the_report_tells() -> None:
    given = tensors() | {"m.lm.layer.weight": torch.ones(7, 7)}
    mapped = map_tensors([source(given, {"epoch": "training state"})], EXPECTED, IDS)
    assert mapped.tensors.keys() == EXPECTED.keys()
    assert torch.equal(mapped.tensors["img_embeddings.weight"], given["m.rows"])
    lines = format_report(mapped.report).splitlines()
    assert any(line.split() == ["m.fc.weight", "2", "x", "3", "head.weight"] for line in lines)
    assert any("m.lm.layer.weight" in line and "7 x 7" in line and "left out: frozen" in line for line in lines)
    assert any(line.startswith("epoch") and "left out: training state" in line for line in lines)
    assert len(lines) == 1 + len(given) + 1


def test_everything_wrong_is_listed_at_once_with_both_shapes() -> None:
    given = tensors()
    given |= {"m.fc.weight": torch.ones(2, 5), "m.fc.bias": torch.tensor([1.0, torch.nan]), "x.y": torch.ones(1)}
    given |= {"m.old.weight": torch.ones(1), "m.rows": torch.ones(2, 3, dtype=torch.int64)}
    del given["m.scale"]
    with pytest.raises(ConversionError) as caught:
        map_tensors([source(given)], EXPECTED, IDS, {"head.weight": "the model is 3 wide"})
    message = str(caught.value)
    assert message.startswith("c.pth.tar: 6 problems")
    for part in (
        "m.fc.weight for head.weight: expected 2 x 3, found 2 x 5 (the model is 3 wide)",
        "m.fc.bias holds NaN or infinite values",
        "m.scale is missing: a scalar for scale",
        "x.y (1) is unknown",
        "m.old.weight (1) is unknown: with these settings the model has no old.weight",
        "m.rows holds torch.int64, expected floating point",
    ):
        assert part in message


def test_img_rows_are_picked_by_their_ids_from_a_whole_embedding() -> None:
    whole = torch.arange(30.0).reshape(10, 3)
    mapped = map_tensors([source(tensors() | {"m.rows": whole})], EXPECTED, IDS)
    assert torch.equal(mapped.tensors["img_embeddings.weight"], whole[IDS])
    report = format_report(mapped.report)
    assert "m.rows[4..5]" in report
    assert "m.rows, other rows  8 x 3" in " ".join(report.split()).replace("rows 8", "rows  8")


def test_an_embedding_that_ends_before_the_ids_is_refused() -> None:
    with pytest.raises(ConversionError, match="expected 2 x 3, found 5 x 3"):
        map_tensors([source(tensors() | {"m.rows": torch.ones(5, 3)})], EXPECTED, IDS)


@pytest.mark.parametrize("shape", [(3,), (1, 3)])
def test_a_single_row_may_come_without_its_dimension(shape: tuple[int, ...]) -> None:
    row = torch.arange(3.0)
    expected = EXPECTED | {"img_embeddings.weight": (1, 3)}
    mapped = map_tensors([source(tensors() | {"ret": row.reshape(shape)})], expected, [4])
    assert torch.equal(mapped.tensors["img_embeddings.weight"], row[None])
    assert "the new rows are taken from ret" in format_report(mapped.report)


def test_rounding_copies_and_refuses_what_does_not_fit() -> None:
    whole = torch.full((4, 2), 1.0)
    rounded = round_to({"a": whole[:1]}, torch.float32)["a"]
    assert rounded.untyped_storage().nbytes() == 8
    with pytest.raises(ConversionError, match="65504 do not fit --dtype float16: a"):
        round_to({"a": whole * 1e5}, torch.float16)
