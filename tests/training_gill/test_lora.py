"""LoRA on the language model: trained along, saved as peft saves it, loaded with the adapters."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline
from tests.training_gill.conftest import write_recipe
from tests.training_passes import plain_losses
from training_gill import train
from training_gill.checkpoints import last_checkpoint, load_adapters
from training_gill.training_step import AdapterTrainingStep

LORA = '{"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}'


@pytest.fixture(scope="module")
def loaded(small_world, tmp_path_factory):
    """A repository trained with LoRA, and the model as it is loaded from it."""
    folder = tmp_path_factory.mktemp("lora")
    recipe = write_recipe(small_world, folder / "out", folder / "recipe.yaml")
    options = {"max_steps": 3, "save_steps": 3, "eval_strategy": "no", "panel_steps": 0}
    train(recipe, lora=LORA, **options, use_cpu=True, disable_tqdm=True)
    return folder / "out", GillForConditionalGeneration.from_pretrained(folder / "out")


def lora_of(model):
    return {name: weight for name, weight in model.language_model.named_parameters() if "lora_" in name}


def test_lora_is_saved_in_a_folder_of_its_own(loaded):
    out, _ = loaded
    assert not (out / "adapter_config.json").exists()
    saved = json.loads((out / "language_model_lora" / "adapter_config.json").read_text())
    assert saved["r"] == 4
    assert (out / "language_model_lora" / "adapter_model.safetensors").exists()


def test_lora_was_trained_and_is_loaded_with_the_adapters(loaded):
    _, model = loaded
    weights = lora_of(model)
    assert weights
    assert all(weight.any() for name, weight in weights.items() if "lora_B" in name)
    assert not any(weight.requires_grad for weight in weights.values())


def test_a_pipeline_brings_the_lora_too(loaded):
    out, model = loaded
    pipeline = GillPipeline.from_pretrained(out)
    ours, theirs = lora_of(model), lora_of(pipeline.model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_was_loaded_is_saved_again(loaded, tmp_path):
    _, model = loaded
    model.save_pretrained(tmp_path / "again")
    again = lora_of(GillForConditionalGeneration.from_pretrained(tmp_path / "again"))
    assert all(torch.equal(weight, again[name]) for name, weight in lora_of(model).items())


def test_a_checkpoint_restores_the_lora(loaded):
    out, model = loaded
    expected = {name: weight.detach().clone() for name, weight in lora_of(model).items()}
    with torch.no_grad():
        for weight in lora_of(model).values():
            weight.add_(1)
    load_adapters(model, Path(str(last_checkpoint(out))))
    assert all(torch.equal(weight, expected[name]) for name, weight in lora_of(model).items())


def test_lora_changes_no_weight_of_the_language_model(loaded, small_world):
    from transformers import AutoModelForCausalLM

    _, model = loaded
    plain = AutoModelForCausalLM.from_pretrained(small_world / "models" / "language_model").state_dict()
    frozen = {
        name.replace(".base_layer", ""): w
        for name, w in model.language_model.state_dict().items()
        if "lora_" not in name
    }
    assert all(torch.equal(weight, frozen[name]) for name, weight in plain.items())


def test_with_lora_the_cheap_step_has_the_gradients_of_the_plain_forward(loaded, small_world):
    from modeling_gill import GillProcessor
    from training_gill.collator import CaptionedImageCollator
    from training_gill.training_data import open_data

    out, _ = loaded
    model = GillForConditionalGeneration.from_pretrained(out, dtype=torch.float64)
    model.language_model.double()
    step = AdapterTrainingStep(model).eval()  # without LoRA's dropout
    data = open_data(str(small_world / "train.tsv"))
    collator = CaptionedImageCollator(GillProcessor.from_pretrained(out), 24, 0.5)
    target = {"prompt_embeds": torch.randn(model.config.conditioning_length, model.config.conditioning_dim)}
    batch = collator([{**data[i], "target_conditioning": target} for i in range(6)])
    step(**batch)["loss"].backward()
    found = {name: w.grad.clone() for name, w in model.named_parameters() if w.requires_grad}
    assert any("lora_" in name for name in found)
    model.zero_grad()
    features = model.get_image_features(batch["pixel_values"]).pooler_output
    sum(plain_losses(model, batch, features, features, batch["target_conditioning"]).values()).backward()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert float((found[name] - weight.grad).abs().max()) <= 1e-10 * float(weight.grad.abs().max()), name


def test_what_lora_cannot_do_is_refused(loaded, tmp_path):
    out, model = loaded
    with pytest.raises(ValueError, match="self_contained"):
        model.save_pretrained(tmp_path, self_contained=True)
    with pytest.raises(ValueError, match="carries LoRA already"):
        GillForConditionalGeneration.from_pretrained(
            out, language_model=model.language_model, vision_model=model.vision_model
        )


def test_a_self_contained_model_takes_no_lora(golden_model, tmp_path):
    golden_model.save_pretrained(tmp_path / "whole", self_contained=True)
    whole = GillForConditionalGeneration.from_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match="self-contained"):
        whole.add_language_model_lora(LoraConfig(r=2, target_modules=["q_proj"]))
