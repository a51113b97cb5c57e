"""`gill convert gill` turns an original GILL release into a repository that computes the same."""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conversion import assemble, gill
from gill.cli import main
from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from pipeline_gill.retrieval_set_gill import RetrievalSet
from tests.warm_processes import run_warm

from .conftest import FIRST_IMG_ID, IMAGE_TOKEN_ID, D, K, P, R, SmallRelease

ADAPTERS = {
    "img_embeddings.weight": "model.input_embeddings.weight",
    "visual_projection.weight": "model.visual_embeddings.weight",
    "image_retrieval_head.bias": "model.visual_fc.bias",
    "text_retrieval_head.weight": "model.ret_text_hidden_fcs.0.model.weight",
    "mapper.output_projection.weight": "model.gen_text_hidden_fcs.0.model.weight",
    "logit_scale": "model.logit_scale",
}


def test_the_converted_heads_answer_as_the_authors_did(
    golden_repository: Path, gill_arrays: dict[str, np.ndarray]
) -> None:
    model = GillForConditionalGeneration.from_pretrained(golden_repository)
    with torch.no_grad():
        made = model.image_outputs(torch.from_numpy(gill_arrays["g0.hidden"]))
    assert np.allclose(made["conditioning"]["prompt_embeds"], gill_arrays["g0.gen_emb"], atol=2e-4)
    assert np.allclose(made["retrieval_embeds"][:, None], gill_arrays["g0.ret_emb"], atol=2e-4)
    probabilities = made["decision_logits"].softmax(-1)
    assert np.allclose(probabilities.flatten(), gill_arrays["g0.decision_probs"].flatten(), atol=1e-4)


def test_the_repository_is_whole(golden_repository: Path, golden_world: Path) -> None:
    names = {path.name for path in golden_repository.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "generation_config.json",
        "processor_config.json",
        "tokenizer.json",
        "model_index.json",
        "modeling_gill.py",
        "pipeline_gill.py",
        "retrieval_set",
    } <= names
    config = GillConfig.from_pretrained(golden_repository)
    assert config.language_model_id == str((golden_world / "facebook/opt-golden").resolve())
    assert config.image_output_token_ids == list(range(FIRST_IMG_ID, FIRST_IMG_ID + 8))
    assert (config.image_token_id, config.mapper_type, config.img_logit_scaling) == (379, "gill_mapper", "absolute")
    assert (config.conditioning_length, config.conditioning_dim, config.use_decision_head) == (77, 768, True)
    stored = json.loads((golden_repository / "generation_config.json").read_text())
    assert stored.get("eos_token_id") is None
    assert (stored["max_new_tokens"], stored["pad_token_id"], stored.get("do_sample", False)) == (32, 1, False)
    index = json.loads((golden_repository / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_gill", "GillPipeline"]


def test_the_retrieval_set_belongs_to_the_model_and_finds_its_images(
    golden_repository: Path, golden_world: Path
) -> None:
    images = RetrievalSet.load(golden_repository / "retrieval_set")
    model = GillForConditionalGeneration.from_pretrained(golden_repository)
    images.check_fingerprint(model.retrieval_fingerprint())
    with (golden_world / "gill_opt" / "cc3m_embeddings.npy").open("rb") as file:
        original = np.stack(pickle.load(file)["embeddings"])
    cosines, indices = images.search(torch.from_numpy(original[7:8]), 1)
    assert indices.tolist() == [[7]]
    assert cosines.item() == pytest.approx(1, abs=1e-5)
    assert images.open_image(7).size == (48, 40)


# --- variants of a small release -------------------------------------------------------------------------------------


def test_the_default_is_bfloat16_and_every_tensor_arrives(small_gill: SmallRelease, tmp_path: Path) -> None:
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--verify")]) == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert len(stored) == 12
    for destination, name in ADAPTERS.items():
        assert torch.equal(stored[destination], small_gill.tensors[name].bfloat16())
    assert small_gill.decision_head is not None
    assert torch.equal(stored["decision_head.weight"], small_gill.decision_head["1.weight"].bfloat16())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_checkpoint_may_have_any_float_dtype_and_a_module_prefix(
    small_gill: SmallRelease, tmp_path: Path, dtype: torch.dtype
) -> None:
    source = {f"module.{name}": tensor.to(dtype) for name, tensor in small_gill.tensors.items()}
    small_gill.tensors = source
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--verify", "--dtype", "float32")]) == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for destination, name in ADAPTERS.items():
        assert torch.equal(stored[destination], source[f"module.{name}"].float())


@pytest.mark.parametrize("rows", [FIRST_IMG_ID + R, 448])
def test_a_checkpoint_straight_out_of_training_gives_the_same_model(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "pruned")]) == 0
    # A vocabulary padded to a round number does not end with the [IMG] rows.
    whole = torch.randn(rows, D)
    whole[FIRST_IMG_ID : FIRST_IMG_ID + R] = small_gill.tensors["model.input_embeddings.weight"]
    small_gill.tensors |= {
        "model.input_embeddings.weight": whole,
        "model.lm.lm_head.weight": torch.full((3, 3), torch.nan),
        "model.visual_model.vision_model.embeddings.position_ids": torch.arange(5),
    }
    small_gill.beside = {"epoch": 4, "best_acc1": torch.tensor(1.0), "optimizer": {"state": {}}, "scheduler": {}}
    (tmp_path / "original" / "pretrained_ckpt.pth.tar").unlink()
    small_gill.save("ckpt_best.pth.tar")
    capsys.readouterr()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "whole", "--verify")]) == 0
    pruned, unpruned = (load_file(tmp_path / name / "model.safetensors") for name in ("pruned", "whole"))
    assert pruned.keys() == unpruned.keys()
    assert all(torch.equal(pruned[name], unpruned[name]) for name in pruned)
    report = capsys.readouterr().out
    assert "model.input_embeddings.weight[380..387]" in report
    for left_out in ("model.lm.lm_head.weight", "model.visual_model.vision_model", "epoch", "optimizer", "other rows"):
        assert any(left_out in line and "left out:" in line for line in report.splitlines())


def test_a_linear_mapper_is_filled_up_to_the_generators_length(small_gill: SmallRelease, tmp_path: Path) -> None:
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out")]) == 0
    config = GillConfig.from_pretrained(tmp_path / "out")
    assert (config.mapper_type, config.mapper_tokens_per_img_token) == ("linear", 1)
    assert (config.conditioning_length, config.conditioning_dim) == (10, 12)


def test_without_a_decision_head_the_model_has_none(small_gill: SmallRelease, tmp_path: Path) -> None:
    small_gill.decision_head = None
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--verify")]) == 0
    assert GillConfig.from_pretrained(tmp_path / "out").use_decision_head is False
    assert not any("decision" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


def test_the_processor_knows_the_new_tokens(small_gill: SmallRelease, tmp_path: Path) -> None:
    small_gill.save()
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out")]) == 0
    processor = GillProcessor.from_pretrained(tmp_path / "out")
    tokenizer = processor.tokenizer
    assert (processor.num_visual_tokens, tokenizer.padding_side) == (K, "left")
    assert tokenizer.cls_token == "<|image|>"
    assert tokenizer.cls_token_id == IMAGE_TOKEN_ID
    ids = tokenizer("a cat [IMG0][IMG7]", add_special_tokens=False).input_ids
    assert ids[-2:] == [FIRST_IMG_ID, FIRST_IMG_ID + 7]
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a cat"


# --- retrieval embeddings --------------------------------------------------------------------------------------------


def embeddings(path: Path, width: int = P, first: str = "https://a.org/0.jpg") -> Path:
    path.write_bytes(pickle.dumps({"paths": [first, "https://a.org/1.jpg"], "embeddings": np.ones((2, width))}))
    return path


def test_embeddings_without_the_image_encoders_weights_are_left_out_with_advice(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings(small_gill.save() / "cc3m_1.npy")
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--verify")]) == 0
    said = capsys.readouterr().out
    assert "left out: the 2 retrieval embeddings of cc3m_1.npy" in said
    assert "--vision-model" in said
    assert not (tmp_path / "out" / "retrieval_set").exists()


def test_embeddings_may_be_given_apart_and_may_have_their_width_wrong(
    small_gill: SmallRelease, golden_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings(small_gill.save() / "cc3m_1.npy", width=3)
    apart = embeddings(tmp_path / "mine.pkl", first="x/0.jpg")
    small_gill.flags[3] = str(golden_world / "clip-golden")
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--retrieval-set", str(apart), "--verify")]) == 0
    assert len(RetrievalSet.load(tmp_path / "out" / "retrieval_set")) == 2
    assert "of the first 1 images in files, 1 are not in" in capsys.readouterr().out
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--overwrite")]) == 2
    assert "cc3m_1.npy: embeddings are 3 wide, but the model retrieves in 4 dimensions" in capsys.readouterr().err
    assert (tmp_path / "out" / "config.json").exists()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def fails(release: SmallRelease, out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    assert main(["convert", "gill", *release.argv(out, *more)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze_lm": False, "share_ret_gen": False}, "freeze_lm is False.*share_ret_gen is False"),
        ({"text_emb_layers": [-1, 3]}, r"text_emb_layers is \[-1, 3\]"),
        ({"ret_text_fc_mode": "gill_mapper"}, "ret_text_fc_mode"),
        ({"text_fc_mode": "mlp"}, "text_fc_mode is 'mlp', expected 'gill_mapper' or 'linear'"),
        ({"num_tokens": 7}, "retrieval_token_idx holds 8 token ids, expected 7"),
        ({"num_tokens": "8"}, "num_tokens is '8', expected a positive integer"),
        ({"gen_token_idx": [1, 2, 3, 4, 5, 6, 7, 8]}, "retrieval_token_idx .* and gen_token_idx .* differ"),
        ({"num_clip_tokens": 9}, "cannot be divided into num_clip_tokens 9 positions"),
        ({"num_clip_tokens": 16, "gen_emb_dim": 24}, "conditioning of 16 x 12, but the image generator .* 10 x 12"),
        ({"gen_emb_dim": 16}, "conditioning of 8 x 16, but the image generator .* reads 10 x 12; --image-generator"),
        ({"opt_version": ""}, "opt_version is '', expected a string"),
        ({"n_visual_tokens": 3}, "model.visual_embeddings.weight .*expected 48 x 32, found 32 x 32"),
        ({"ret_emb_dim": 5}, "model.visual_fc.weight .*expected 5 x 32, found 4 x 32"),
    ],
)
def test_settings_that_cannot_be_converted_are_named(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    small_gill.args |= change
    small_gill.save()
    error = fails(small_gill, tmp_path / "out", capsys)
    assert re.search(message, error.replace("\n", " "))


def test_token_ids_of_another_tokenizer_are_refused_with_both(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gill.args["retrieval_token_idx"] = small_gill.args["gen_token_idx"] = list(range(50266, 50274))
    small_gill.save()
    error = fails(small_gill, tmp_path / "out", capsys)
    assert "[50266, 50267" in error
    assert "[380, 381" in error
    assert "379 tokens" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("position", "role"), [(1, "language model"), (3, "image encoder"), (5, "image generator")])
def test_a_backbone_that_is_not_there_is_named_with_its_flag(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str], position: int, role: str
) -> None:
    small_gill.save()
    flag, small_gill.flags[position] = small_gill.flags[position - 1], "/nowhere/at/all"
    error = fails(small_gill, tmp_path / "out", capsys)
    assert f"{role} '/nowhere/at/all'" in error
    assert flag in error


def test_a_language_model_of_another_width_is_pointed_at(
    small_gill: SmallRelease, golden_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gill.save()
    small_gill.flags[1] = str(golden_world / "facebook/opt-golden")
    error = fails(small_gill, tmp_path / "out", capsys)
    assert "expected 8 x 4096, found 8 x 16" in error
    assert "embeds 4096 wide; --language-model names another" in error


def test_a_tensor_that_nothing_needs_is_an_error(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gill.tensors["model.surprise"] = torch.ones(2)
    small_gill.save()
    assert "model.surprise (2) is unknown" in fails(small_gill, tmp_path / "out", capsys)


def test_a_folder_with_only_settings_and_decision_head_says_what_is_missing(
    reference: Path, small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = released(reference, tmp_path)
    small_gill.folder = folder
    error = fails(small_gill, tmp_path / "out", capsys)
    assert "pretrained_ckpt.pth.tar is missing: the trained adapters" in error
    assert "found decision_model.pth.tar, model_args.json" in error


def test_an_existing_folder_is_replaced_only_on_request(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gill.save()
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    assert main(["convert", "gill", *small_gill.argv(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["precious"]
    assert main(["convert", "gill", *small_gill.argv(out, "--overwrite")]) == 0
    assert not (out / "precious").exists()
    assert main(["convert", "gill", *small_gill.argv(small_gill.folder, "--overwrite")]) == 2
    assert "is in it" in capsys.readouterr().err
    assert (small_gill.folder / "model_args.json").exists()


def test_verifying_finds_a_changed_weight_and_removes_what_was_written(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_gill.save()
    write = assemble._write

    def write_wrongly(folder: Path, out: Path, model: Any, *rest: Any) -> None:
        model.logit_scale.data += 1
        write(folder, out, model, *rest)

    monkeypatch.setattr(assemble, "_write", write_wrongly)
    assert main(["convert", "gill", *small_gill.argv(tmp_path / "out", "--verify")]) == 1
    assert "tensor logit_scale differs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_runs_as_a_module(tmp_path: Path) -> None:
    command = ["-m", "gill", "convert", "gill", str(tmp_path / "nothing"), str(tmp_path / "out")]
    made = run_warm(command, after="diffusers", cwd=Path(__file__).parents[2])
    assert made.returncode == 2
    assert made.stderr.count("\n") == 1
    assert "nothing is not a folder" in made.stderr


# --- the released files ----------------------------------------------------------------------------------------------


def released(reference: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "model_args.json").write_bytes((reference / "gill_model_args.json").read_bytes())
    (folder / "decision_model.pth.tar").write_bytes((reference / "gill_decision_model.pth.tar").read_bytes())
    return folder


def test_the_released_settings_become_a_configuration(reference: Path, tmp_path: Path) -> None:
    fields = gill.read_model_args(released(reference, tmp_path))
    assert fields == {
        "language_model_id": "facebook/opt-6.7b",
        "vision_model_id": "openai/clip-vit-large-patch14",
        "image_generator_id": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "image_output_token_ids": list(range(50266, 50274)),
        "num_visual_tokens": 4,
        "retrieval_dim": 256,
        "mapper_type": "gill_mapper",
        "conditioning_length": 77,
        "conditioning_dim": 768,
        "use_decision_head": True,
        "img_logit_scaling": "absolute",
    }
    text_config = {"model_type": "opt", "vocab_size": 50272, "hidden_size": 4096, "word_embed_proj_dim": 4096}
    config = GillConfig(text_config=text_config, image_token_id=50265, **fields)
    assert (config.vocab_size, config.embedding_dim, config.num_image_output_tokens) == (50274, 4096, 8)


def test_the_decision_head_may_be_given_apart(small_gill: SmallRelease, tmp_path: Path) -> None:
    head = small_gill.decision_head
    assert head is not None
    small_gill.decision_head = None
    small_gill.save()
    torch.save({"state_dict": head}, tmp_path / "head.pth.tar")
    arguments = small_gill.argv(tmp_path / "out", "--decision-head", str(tmp_path / "head.pth.tar"))
    assert main(["convert", "gill", *arguments, "--verify"]) == 0
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["decision_head.weight"], head["1.weight"].bfloat16())
    assert GillConfig.from_pretrained(tmp_path / "out").use_decision_head is True


def test_a_decision_head_of_another_make_is_refused(
    small_gill: SmallRelease, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_gill.decision_head = {"1.weight": torch.ones(3, 4), "1.bias": torch.ones(2)}
    small_gill.save()
    assert "1.weight for decision_head.weight: expected 2 x 16, found 3 x 4" in fails(
        small_gill, tmp_path / "out", capsys
    )
