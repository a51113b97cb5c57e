"""A GILL answers and trains with a language model that torchao or bitsandbytes has quantized."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

from modeling_gill import GillForConditionalGeneration
from modeling_gill.backbones_gill import find_language_model_traits
from modeling_gill.language_model_head_gill import UnsupportedLanguageModel
from tests.small_model import small_config, small_model, small_processor
from tests.training_passes import both_passes
from training_gill.frozen_head_loss import frozen_head_cross_entropy
from training_gill.training_step import AdapterTrainingStep


def quantization(kind: str) -> Any:
    if kind.startswith("torchao"):
        torchao = pytest.importorskip("torchao.quantization")
        from transformers import TorchAoConfig

        # The head stays as it is unless it is asked for.
        quantized = {"include_input_output_embeddings": True} if "head" in kind else {}
        return TorchAoConfig(torchao.Int8WeightOnlyConfig(), **quantized)
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True, **({"llm_int8_skip_modules": []} if "head" in kind else {}))


@pytest.mark.parametrize("kind", ["torchao", "torchao with its head", "bitsandbytes", "bitsandbytes with its head"])
@pytest.mark.parametrize("inside", [True, False])
def test_a_quantized_language_model_answers_and_trains(kind: str, inside: bool, tmp_path: Path) -> None:
    options = {"quantization_config": quantization(kind), "dtype": torch.float32}
    processor = small_processor()
    original = small_model(processor, "llama")
    if not inside:
        original.language_model.save_pretrained(tmp_path / "language")
        original.vision_model.save_pretrained(tmp_path / "vision")
        names = {f"{part}_model_id": str(tmp_path / part) for part in ("language", "vision")}
        referring = GillForConditionalGeneration(small_config(processor, "llama", **names), defer_backbones=True)
        referring.attach_backbones(original.language_model, original.vision_model)
        referring.load_state_dict(original.state_dict())
        original = referring
    original.save_pretrained(tmp_path / "gill")
    model = GillForConditionalGeneration.from_pretrained(tmp_path / "gill", **options)
    layers = [type(m.weight).__name__ for m in model.language_model.modules() if isinstance(m, torch.nn.Linear)]
    assert layers.count("Parameter") == ("head" not in kind)

    prompt = processor([[Image.effect_noise((20, 20), 60).convert("RGB"), "a red house"]])
    sequences = model.generate(**prompt, max_new_tokens=5, min_text_tokens=2, image_token_scale=1e4, do_sample=False)
    assert set(model.config.image_output_token_ids) <= {*sequences[0].tolist()}

    run = model.config.image_output_token_ids
    rows = both_passes([[5, 6, 7, 8, *run], [9, 10, *run]], model.config, packed=False)
    features = torch.randn(2, *model.config.image_feature_shape)
    targets = {t.name: torch.randn(2, t.num_positions, t.dim) for t in model.config.conditioning_tensors}
    AdapterTrainingStep(model)(**rows, image_features=features, target_conditioning=targets)["loss"].backward()
    learnt = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert "img_embeddings.weight" in learnt and not [n for n in learnt if n.startswith(("language", "vision_model"))]

    # The loss of the training step is that of the logits, through the quantized head as well.
    states, ids = torch.randn(6, 24), torch.tensor([3, 9, run[0], 40, run[1], 7])
    leaves = [states.clone().requires_grad_() for _ in range(2)]
    plain = functional.cross_entropy(model.compute_logits(leaves[0]).float(), ids, reduction="sum")
    head, rows_of_run = model.language_model.get_output_embeddings(), model.img_embeddings.weight
    fast, _ = frozen_head_cross_entropy(leaves[1], rows_of_run, ids, head, run, model.config.vocab_size)
    torch.testing.assert_close(fast, plain)
    (wanted,), (found,) = (torch.autograd.grad(loss, leaf) for loss, leaf in zip((plain, fast), leaves, strict=True))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


class Linear8bitLt(torch.nn.Linear):
    """As the layer of bitsandbytes of this name, which keeps more in its weight than its numbers."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return functional.linear(states, self.weight.CB)


Linear8bitLt.__module__ = "bitsandbytes.nn.modules"


def test_a_quantized_head_that_shares_the_weight_of_the_embedding_is_refused() -> None:
    model = small_model(small_processor(), "opt").language_model
    assert model.lm_head.weight is model.get_input_embeddings().weight
    head = Linear8bitLt(model.lm_head.in_features, model.lm_head.out_features, bias=False)
    head.weight = model.lm_head.weight
    model.lm_head = head
    with pytest.raises(UnsupportedLanguageModel, match=r"OPTForCausalLM .*Linear8bitLt.*hold 'lm_head', or to be None"):
        find_language_model_traits(model)


def test_a_quantized_language_model_that_was_changed_is_noticed(tmp_path: Path) -> None:
    config = quantization("torchao")
    from modeling_gill.fingerprint_gill import find_changed_weight, sample_weights

    small_model(small_processor(), "llama").save_pretrained(tmp_path)
    model = GillForConditionalGeneration.from_pretrained(tmp_path, quantization_config=config)
    samples = sample_weights(model.language_model)
    assert find_changed_weight(model.language_model, samples) is None
    weight: Any = model.language_model.model.layers[0].mlp.up_proj.weight
    weight.scale.mul_(2)
    assert find_changed_weight(model.language_model, samples) == "model.layers.0.mlp.up_proj.weight"
