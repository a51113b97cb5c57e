"""`gill convert fromage` turns an original FROMAGe release into a repository that retrieves the same."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from conversion import fromage
from conversion.original_files import ConversionError
from gill.cli import main
from modeling_gill import GillConfig, GillProcessor
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.warm_processes import run_warm

from .conftest import FIRST_IMG_ID, D, SmallRelease


def test_the_golden_release_converts_by_the_command(golden_world: Path, tmp_path: Path) -> None:
    original, out = golden_world / "fromage_model", tmp_path / "out"
    command = [
        "-m",
        "gill",
        "convert",
        "fromage",
        str(original),
        str(out),
        "--language-model",
        str(golden_world / "facebook/opt-golden"),
        "--vision-model",
        str(golden_world / "clip-golden"),
        "--image-folder",
        str(golden_world),
        "--verify",
    ]
    made = run_warm(command, after="diffusers", cwd=Path(__file__).parents[2])
    assert made.returncode == 0, made.stderr
    assert "verified: 8 tensors" in made.stdout
    source = torch.load(original / "pretrained_ckpt.pth.tar", weights_only=True)["state_dict"]
    stored = load_file(out / "model.safetensors")
    names = {
        "logit_scale": "model.logit_scale",
        "img_embeddings.weight": "ret_input_embeddings.weight",
        "visual_projection.weight": "model.visual_embeddings.weight",
        "visual_projection.bias": "model.visual_embeddings.bias",
        "image_retrieval_head.weight": "model.visual_fc.weight",
        "image_retrieval_head.bias": "model.visual_fc.bias",
        "text_retrieval_head.weight": "model.text_hidden_fcs.0.0.weight",
        "text_retrieval_head.bias": "model.text_hidden_fcs.0.0.bias",
    }
    assert stored.keys() == names.keys()
    for destination, name in names.items():
        assert torch.equal(stored[destination], source[name].bfloat16())
    config = GillConfig.from_pretrained(out)
    assert (config.mapper_type, config.use_decision_head, config.img_logit_scaling) == (None, False, "signed")
    assert (config.image_output_token_ids, config.num_visual_tokens) == ([FIRST_IMG_ID], 1)
    assert config.image_generator_id is None
    processor = GillProcessor.from_pretrained(out)
    assert (processor.img_tokens, processor.image_output_token_ids) == (["[RET]"], [FIRST_IMG_ID])
    assert RetrievalSet.load(out / "retrieval_set").open_image(3).size == (48, 40)
    index = json.loads((out / "model_index.json").read_text())
    assert index["unet"] == [None, None]


@pytest.mark.parametrize("ids", [FIRST_IMG_ID, [FIRST_IMG_ID]])
@pytest.mark.parametrize("shape", [(D,), (1, D)])
def test_the_row_and_its_id_may_come_with_or_without_a_list(
    small_fromage: SmallRelease, tmp_path: Path, ids: Any, shape: tuple[int, ...]
) -> None:
    row = small_fromage.tensors["ret_input_embeddings.weight"]
    small_fromage.tensors["ret_input_embeddings.weight"] = row.reshape(shape)
    small_fromage.args["retrieval_token_idx"] = ids
    small_fromage.save()
    assert main(["convert", "fromage", *small_fromage.argv(tmp_path / "out", "--verify", "--dtype", "float32")]) == 0
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["img_embeddings.weight"], row)


@pytest.mark.parametrize("pruned_by_the_authors", [True, False])
def test_a_checkpoint_straight_out_of_training_gives_its_own_row(
    small_fromage: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str], pruned_by_the_authors: bool
) -> None:
    # The authors' script adds the row and keeps the whole embedding and the frozen models.
    row = small_fromage.tensors.pop("ret_input_embeddings.weight")
    whole = torch.randn(448, D)
    whole[FIRST_IMG_ID] = row[0]
    tensors = {f"module.{name}": tensor for name, tensor in small_fromage.tensors.items()}
    tensors |= {"module.model.input_embeddings.weight": whole, "module.model.lm.model.decoder.w": torch.ones(2)}
    small_fromage.tensors = tensors | ({"ret_input_embeddings.weight": row} if pruned_by_the_authors else {})
    small_fromage.beside = {} if pruned_by_the_authors else {"epoch": 1, "optimizer": {}}
    small_fromage.save("ckpt_pruned.pth.tar" if pruned_by_the_authors else "ckpt.pth.tar")
    assert main(["convert", "fromage", *small_fromage.argv(tmp_path / "out", "--verify", "--dtype", "float32")]) == 0
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["img_embeddings.weight"], row)
    report = capsys.readouterr().out.splitlines()
    assert any("model.input_embeddings.weight" in line and "left out:" in line for line in report)
    assert any("model.lm.model.decoder.w" in line and "left out: the frozen language model" in line for line in report)


@pytest.mark.parametrize(
    ("name", "visual_tokens"), [("fromage_model_args.json", 1), ("fromage_vis4_model_args.json", 4)]
)
def test_both_released_settings_become_configurations(
    reference: Path, tmp_path: Path, name: str, visual_tokens: int
) -> None:
    (tmp_path / "model_args.json").write_bytes((reference / name).read_bytes())
    fields = fromage.read_model_args(tmp_path)
    assert fields == {
        "language_model_id": "facebook/opt-6.7b",
        "vision_model_id": "openai/clip-vit-large-patch14",
        "image_output_token_ids": [50266],
        "num_visual_tokens": visual_tokens,
        "retrieval_dim": 256,
        "mapper_type": None,
        "use_decision_head": False,
        "img_logit_scaling": "signed",
    }
    with pytest.raises(ConversionError, match=r"pretrained_ckpt\.pth\.tar is missing"):
        fromage.read_original(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retrieval_token_idx": [380, 381]}, "retrieval_token_idx holds 2 token ids, expected 1"),
        ({"shared_emb_dim": None}, "shared_emb_dim is None, expected a positive integer"),
        ({"use_image_embed_norm": True}, "use_image_embed_norm is True"),
        ({"retrieval_token_idx": 381}, r"the ids \[381\], but .* they get \[380\]"),
        ({"num_appended_retrieval_tokens": 2}, "num_appended_retrieval_tokens is 2"),
    ],
)
def test_settings_that_cannot_be_converted_are_named(
    small_fromage: SmallRelease,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    message: str,
) -> None:
    small_fromage.args |= change
    small_fromage.save()
    assert main(["convert", "fromage", *small_fromage.argv(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_gill_checkpoint_is_not_taken_for_fromage(
    small_fromage: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_fromage.tensors["model.gen_text_hidden_fcs.0.fc.weight"] = torch.ones(2, 2)
    small_fromage.save()
    assert main(["convert", "fromage", *small_fromage.argv(tmp_path / "out")]) == 2
    assert "model.gen_text_hidden_fcs.0.fc.weight (2 x 2) is unknown" in capsys.readouterr().err
