"""A language model that learns under FSDP2: two processes that share its weights train it as one does."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_gill import GillForConditionalGeneration
from tests.training_gill.small_records import record_entries
from tests.training_gill.test_two_processes import run_processes
from training_gill.checkpoints import last_checkpoint

pytestmark = pytest.mark.slow

# As the recipe of the second stage, with the layer of this language model.
SHARED = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": ["OPTDecoderLayer"],
    },
}


def launch(world: Path, out: Path, processes: int, float64: bool = True, **entries: object) -> dict[str, dict]:
    """Gradients of the first step and final weights of the second stage, from a plain language model."""
    options = {
        "stage": "tuning",
        "max_steps": 1,
        "per_device_train_batch_size": 4 // processes,
        # Errors of single precision in the generator must not decide about the sign of a step.
        "optim": "sgd",
        "learning_rate": 1e-2,
        **(SHARED if processes > 1 else {}),
        **entries,
    }
    recipe, result = out.with_suffix(".yaml"), out.with_suffix(".pt")
    recipe.write_text(yaml.safe_dump(record_entries(world, out, **options)))
    command = [sys.executable, "-m", "tests.training_gill.run_steps", str(recipe), str(result)]
    environment = {"DRAWS_OF_IMAGES": "1", "SHARED_WEIGHTS": "1"}
    run_processes(command, processes, environment, float64)
    return torch.load(result)


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    # A bias of keys has no gradient but for rounding, as attention does not depend on it.
    least = 1e-9 * max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        error = float((found[name].double() - value.double()).abs().max())
        assert error <= tolerance * max(float(value.abs().max()), least), name


@pytest.mark.parametrize("accumulated", (1, 2))
def test_two_processes_that_share_the_language_model_train_it_as_one_does(small_world, tmp_path, accumulated):
    options = {"gradient_accumulation_steps": accumulated, "max_steps": 2}
    one = launch(small_world, tmp_path / "one", 1, **options)
    two = launch(small_world, tmp_path / "two", 2, activation_checkpointing=True, **options)
    assert {name.split(".")[0] for name in one["gradients"]} >= {"language_model", "mapper", "added_head"}
    # The image generator computes in float32, all else in float64.
    assert_close(two["gradients"], one["gradients"], 1e-5)
    assert_close(two["weights"], one["weights"], 1e-6)


def test_a_checkpoint_of_two_processes_resumes_bit_for_bit_and_their_model_is_a_repository(small_world, tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch", "float64": False}
    whole = launch(small_world, tmp_path / "whole", 2, **options)
    (tmp_path / "resumed").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    assert last_checkpoint(tmp_path / "resumed") == str(tmp_path / "resumed" / "checkpoint-2")
    resumed = launch(small_world, tmp_path / "resumed", 2, **options)
    assert resumed["weights"].keys() == whole["weights"].keys()
    assert all(torch.equal(resumed["weights"][name], value) for name, value in whole["weights"].items())

    model = GillForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert model.config.language_model_id is None and model.config.vision_model_id is not None
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name].float(), value.float()) for name, value in whole["weights"].items())


def test_half_precision_and_fsdps_own_recomputing_write_a_repository_too(small_world, tmp_path):
    shared = {**SHARED["fsdp_config"], "activation_checkpointing": True}
    options = {"bf16": True, "fsdp_config": shared, "float64": False, "optim": "adamw_torch"}
    found = launch(small_world, tmp_path / "out", 2, **options)
    assert {value.dtype for value in found["weights"].values()} == {torch.float32}
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {name.split(".")[0] for name in saved} >= {"language_model", "mapper", "added_embeddings"}
    assert not any("checkpoint_wrapped" in name for name in saved)
    assert all(torch.isfinite(value).all() for value in saved.values())
    GillForConditionalGeneration.from_pretrained(tmp_path / "out")
