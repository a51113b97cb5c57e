"""Every family of language models is exact between the adapters, or refused by name. The README's table is this."""

import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, CLIPVisionConfig, PretrainedConfig

from modeling_gill import GillConfig, GillForConditionalGeneration, decoder_traits_gill
from modeling_gill.backbones_gill import find_language_model_traits, language_model_class
from modeling_gill.language_model_head_gill import UnsupportedLanguageModel
from tests.training_passes import plain_losses
from training_gill.training_step import AdapterTrainingStep

ROWS, SPARE = 64, 5
IMG_IDS, IMAGE_ID = [61, 66, 67], 65
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOW = {"sliding_window": 4, "num_key_value_heads": 2}
BOTH_ATTENTIONS = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}

# Families that the quick tests cover: a plain one, one with each cause of a difference, one of each slower way,
# and one with an image tower of its own.
QUICK = ("opt", "gemma2", "cohere", "mistral", "mamba", "bert", "qwen2_5_vl")
FAMILIES: dict[str, dict[str, Any]] = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 24, "dropout": 0.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gpt_neo": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": {},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "codegen": {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4},
    "gpt_oss": {**BOTH_ATTENTIONS, "head_dim": 8, "num_local_experts": 4},
    "llama": {"tie_word_embeddings": False},
    "mistral": WINDOW,
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2},
    "qwen3_next": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    | {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "phi": {},
    "phi3": {"pad_token_id": 0},
    "falcon": {"alibi": False},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "num_key_value_heads": 2, "head_dim": 8},
    "olmo": {},
    "olmo2": {},
    "olmo3": BOTH_ATTENTIONS,
    "smollm3": {"num_key_value_heads": 2, "pad_token_id": 0, "no_rope_layers": [1, 0]},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4},
    "deepseek_v3": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
    | {"v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    | {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4},
    "deepseek_v2": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
    | {"v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    | {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_key_value_heads": 4, "head_dim": 4},
    "kimi_linear": {"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    | {"layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"]}
    | {"linear_head_dim": 8, "linear_num_heads": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 16, "num_key_value_heads": 4},
    "bailing_hybrid": {"kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    | {"layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"], "head_dim": 8}
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    | {"moe_intermediate_size": 16, "num_key_value_heads": 4},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "stablelm": {"num_key_value_heads": 2},
    "helium": {"num_key_value_heads": 2, "head_dim": 8},
    "cohere": {"num_key_value_heads": 2},
    "cohere2": {**BOTH_ATTENTIONS, "head_dim": 8},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 8.0, "embedding_multiplier": 12.0},
    "granitemoe": {"num_key_value_heads": 2, "logits_scaling": 6.0, "num_local_experts": 4},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {**BOTH_ATTENTIONS, "head_dim": 8},
    "gemma3_text": {**BOTH_ATTENTIONS, "head_dim": 8},
    "gemma3n_text": {
        **BOTH_ATTENTIONS,
        "head_dim": 8,
        "vocab_size_per_layer_input": 64,
        "hidden_size_per_layer_input": 8,
    }
    | {"num_kv_shared_layers": 0, "laurel_rank": 4},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "dropout": 0.0},
    "biogpt": {"hidden_dropout_prob": 0.0},
    "minicpm3": {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    "starcoder2": WINDOW,
    "lfm2": {"num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "block_ff_dim": 48},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "num_key_value_heads": 2}
    | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2, "use_mamba_kernels": False}
    | {"mamba_dt_rank": 4, "mamba_d_state": 4},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "num_key_value_heads": 4}
    | {"use_mamba_kernels": False, "mamba_dt_rank": 4, "mamba_d_state": 4},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "num_key_value_heads": 4}
    | {"use_mamba_kernels": False, "mamba_d_state": 8, "n_mamba_heads": 4, "chunk_size": 8, "adapter_rank": 8},
    "mamba": {"state_size": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4, "expand": 2, "chunk_size": 8},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": 4},
    "rwkv": {"attention_hidden_size": 32},
    "bert": {"is_decoder": True},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    # Language models that come with an image tower of their own.
    "llava": {
        "text_config": {"model_type": "llama", "tie_word_embeddings": False},
        "vision_config": {"model_type": "clip_vision_model", **TOWER, "image_size": 16, "patch_size": 8},
    },
    "qwen2_5_vl": {
        "text_config": {"num_key_value_heads": 2, "rope_parameters": MROPE},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
        | {"fullatt_block_indexes": [0]},
    },
    "qwen3_vl": {
        "text_config": {"num_key_value_heads": 2, "head_dim": 8, "rope_parameters": MROPE},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
        | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    },
    "gemma3": {
        "text_config": {**BOTH_ATTENTIONS, "head_dim": 8},
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
        "mm_tokens_per_image": 4,
    },
}
REFUSED = {"gemma3n_text": "ids of tokens", "bert": "puts layers that cannot be tried between", "xlnet": "not causal"}
# What a family cannot do, which is then an error rather than a difference.
NO_PADDING = ("rwkv", "recurrent_gemma")


def family_config(family: str) -> PretrainedConfig:
    ids = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    sizes, own = {**SIZES, "vocab_size": ROWS, **ids}, FAMILIES[family]
    if "text_config" in own:
        return AutoConfig.for_model(family, **{**own, "text_config": {**sizes, **own["text_config"]}})
    return AutoConfig.for_model(family, **{**sizes, **own})


def family_model(family: str) -> GillForConditionalGeneration:
    text = family_config(family)
    vision = CLIPVisionConfig(
        hidden_size=20, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    sizes = {"mapper_hidden_size": 16, "mapper_num_layers": 1, "mapper_num_heads": 2, "mapper_ffn_dim": 16}
    config = GillConfig(
        text_config=text,
        vision_config=vision,
        vocab_size=68,
        image_token_id=IMAGE_ID,
        image_output_token_ids=IMG_IDS,
        num_visual_tokens=2,
        conditioning_length=7,
        conditioning_dim=12,
        retrieval_dim=8,
        **sizes,
    )
    torch.manual_seed(0)
    model = GillForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.language_model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * weight.shape[-1] ** -0.5)
            else:  # a gate that begins at zero would hide what is beside it
                weight.add_(torch.randn_like(weight) * 0.2)
        model.img_embeddings.weight.copy_(torch.randn_like(model.img_embeddings.weight) * 0.3)
        # No logit is so large that rounding would be seen.
        table = model.language_model.get_input_embeddings().weight
        table.mul_(1 / max(1.0, model.language_model_traits.embedding_scale))
    model.generation_config.pad_token_id = 1
    model.generation_config.eos_token_id = None
    return model


@dataclass
class Row:
    """What a family does in the table of the documentation."""

    family: str
    verdict: str
    notes: str = ""


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= tolerance * max(scale, 1e-3)


def check_appended_rows(model: GillForConditionalGeneration) -> None:
    """Logits are those of the language model itself, had the `[IMG]` rows been appended to its embedding and head."""
    lm = model.language_model
    ids = torch.randint(3, 60, (2, 9))
    ids[:, 4:7] = torch.tensor(IMG_IDS)
    ours = model(input_ids=ids, output_images=False).logits
    table, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    before = (table.weight.data, head.weight.data, getattr(head, "bias", None))
    appended = model.img_embeddings.weight.data
    place = {61: 61, 66: 64, 67: 65}

    def with_rows(weight: torch.Tensor) -> torch.Tensor:
        more = torch.cat([weight, appended[1:]])
        more[61] = appended[0]
        return more

    bias = None if before[2] is None else before[2].data
    try:
        head.weight.data = with_rows(before[1])
        if table.weight is not head.weight:
            table.weight.data = with_rows(before[0])
        table.num_embeddings = 66
        if bias is not None:
            head.bias.data = torch.cat([bias, bias.new_zeros(2)])
            head.bias.data[61] = 0
        own_ids = ids.clone()
        for ours_id, own in place.items():
            own_ids[ids == ours_id] = own
        sizes = {name: value for name, value in vars(lm).items() if name == "vocab_size"}
        for name in sizes:
            setattr(lm, name, 66)
        expected = lm(input_ids=own_ids, use_cache=False).logits
    finally:
        table.weight.data, head.weight.data, table.num_embeddings = before[0], before[1], ROWS
        if bias is not None:
            head.bias.data = bias
        for name, value in sizes.items():
            setattr(lm, name, value)
    close(ours[..., :64], expected[..., :64])
    close(ours[..., 66:], expected[..., 64:])


def check_generation(model: GillForConditionalGeneration, pads: bool) -> None:
    """A batch is each row alone, with and without a cache, and the states of images are those of one pass."""
    rows = [torch.randint(3, 60, (length,)) for length in (8, 5)]
    options = {"max_new_tokens": 9, "min_text_tokens": 2, "image_token_scale": 1e4, "return_dict_in_generate": True}
    alone = [model.generate(input_ids=row[None], **options) for row in rows]
    for row, output in zip(rows, alone, strict=True):
        plain = model.generate(input_ids=row[None], **options, use_cache=False)
        assert plain.sequences.tolist() == output.sequences.tolist()
        close(plain.img_hidden_states, output.img_hidden_states)
        again = model(input_ids=output.sequences)
        close(output.img_hidden_states, again.img_hidden_states)
        assert len(output.img_hidden_states)
    ids = torch.full((2, 8), 1)
    ids[0], ids[1, 3:] = rows[0], rows[1]
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    if not pads:
        with pytest.raises(ValueError, match="one by one"):
            model.generate(input_ids=ids, attention_mask=mask, **options)
        return
    batch = model.generate(input_ids=ids, attention_mask=mask, **options)
    assert batch.sequences[0].tolist() == alone[0].sequences[0].tolist()
    assert batch.sequences[1, 3:].tolist() == alone[1].sequences[0].tolist()
    states = torch.cat([output.img_hidden_states for output in alone])
    close(batch.img_hidden_states, states)


def check_conversation(model: GillForConditionalGeneration) -> None:
    """Several tokens over a cache are read as in one pass."""
    ids = torch.randint(3, 60, (1, 10))
    ids[0, 6:9] = torch.tensor(IMG_IDS)
    whole = model(input_ids=ids)
    begun = model(input_ids=ids[:, :5], use_cache=True)
    cache = begun.get("past_key_values", begun.get("cache"))
    if model.language_model_traits.decoder.continues:
        assert cache is not None
        later = model(input_ids=ids[:, 5:], past_key_values=cache, attention_mask=torch.ones_like(ids))
        close(later.logits[..., :64], whole.logits[:, 5:, :64])
    else:
        assert cache is None


def check_training(model: GillForConditionalGeneration) -> None:
    """The losses of the cheap step are those of plain passes over each row, and the adapters get the gradients."""
    img = IMG_IDS
    captions = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
    rows = [[IMAGE_ID] * 2 + caption for caption in captions] + [caption + img for caption in captions]
    rows[-1] = rows[-1] + [20, 21] + img  # packed
    labels = [list(row) for row in rows[:3]]
    for row in rows[3:]:
        end = row.index(img[0]) + 1
        labels.append(row[:end] + [-100] * (len(row) - end))
    longest = max(map(len, rows))
    batch = {
        "input_ids": torch.tensor([row + [1] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
    }
    read, features = torch.randn(3, 20), torch.randn(4, 20)
    features[:3] = read
    target = {"prompt_embeds": torch.randn(4, 7, 12)}
    # The captioning rows read the first three images; the packed row writes a fourth.
    batch["input_ids"][2, :0] = 0
    step = AdapterTrainingStep(model).train()
    cheap = _cheap_losses(step, batch, read, features, target)
    sum(cheap.values()).backward()
    found = _gradients(model)
    model.zero_grad()
    plain = plain_losses(model, batch, read, features, target)
    sum(plain.values()).backward()
    for name, loss in plain.items():
        close(cheap[name].detach(), loss.detach(), 1e-5)
    expected = _gradients(model)
    adapters = {"visual_projection", "img_embeddings", "text_retrieval_head", "image_retrieval_head", "logit_scale"}
    assert {name.split(".")[0] for name in found} == adapters | {"mapper"}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        close(found[name], gradient, 1e-3)


def _cheap_losses(step: Any, batch: Any, read: Any, features: Any, target: Any) -> dict[str, torch.Tensor]:
    """Two calls: one for reading, one for writing, whose images are more."""
    ids, parts = batch["input_ids"], {}
    for reads in (True, False):
        chosen = (ids == IMG_IDS[0]).any(1) != reads
        part = {name: value[chosen] for name, value in batch.items()}
        names = ("captioning",) if reads else ("language", "contrastive", "conditioning")
        for name in names:
            for other in ("captioning", "language", "contrastive", "conditioning"):
                object.__setattr__(step.weights, other, float(other == name))
            images = read if reads else features
            conditioning = None if reads else target
            output = step(**part, image_features=images, target_conditioning=conditioning)
            parts[name] = output["loss"]
    return parts


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None and w.grad.any()}


def family_row(family: str) -> Row:
    """Try a family as the tests do, and say how it is supported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = family_model(family)
        except UnsupportedLanguageModel as error:
            return Row(family, "refused", str(error))
        traits = model.language_model_traits.decoder
        check_appended_rows(model)
        check_generation(model, traits.masks_padding)
        check_conversation(model)
        check_training(model)
    notes = []
    if not traits.masks_padding:
        notes.append("prompts one by one")
    if not traits.continues:
        notes.append("generates without a cache")
    elif not traits.continues_by_several:
        notes.append("continues a conversation token by token")
    if not traits.trains_over_cache:
        notes.append("trains in whole passes")
    return Row(family, "exact", ", ".join(notes))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_family_is_exact_or_refused_by_name(family):
    row = family_row(family)
    if family in REFUSED:
        assert row.verdict == "refused"
        assert family.split("_")[0] in row.notes
        assert REFUSED[family] in row.notes
    else:
        assert row.verdict == "exact", row.notes
        assert ("prompts one by one" in row.notes) == (family in NO_PADDING)


# At the sizes that were published, or the family's own: those whose small copy is hard to find.
PUBLISHED: dict[str, dict[str, Any]] = {
    "codegen": {},
    "zamba2": {},
    "zamba": {},
    "mamba2": {},
    "kimi_linear": {},
    "bailing_hybrid": {},
    "deepseek_v2": {"hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128, "head_dim": 64}
    | {"n_routed_experts": 160, "num_experts_per_tok": 6, "n_group": 8, "topk_group": 3, "first_k_dense_replace": 1}
    | {"topk_method": "group_limited_greedy", "num_key_value_heads": 128, "moe_intermediate_size": 1536},
}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name == "codegen" else pytest.mark.slow) for name in PUBLISHED]
)
def test_a_family_is_tried_on_a_small_copy_at_the_sizes_that_were_published(family, monkeypatch):
    config = AutoConfig.for_model(family, **PUBLISHED[family])
    sizes = []
    build = decoder_traits_gill._random_copy

    def counted(*args: Any) -> Any:
        decoder = build(*args)
        sizes.append(sum(weight.numel() for weight in decoder.parameters()))
        return decoder

    monkeypatch.setattr(decoder_traits_gill, "_random_copy", counted)
    model_class = MODEL_MAPPING[type(config)]
    fields = decoder_traits_gill._Fields(config, "sdpa" if model_class._supports_sdpa else "eager")
    found = decoder_traits_gill._traits_of_copies.__wrapped__(model_class, fields, True)
    assert isinstance(found, decoder_traits_gill.DecoderTraits), found
    assert sizes[-1] < 3 * decoder_traits_gill.MAX_COPY_PARAMETERS


@pytest.mark.parametrize("family", ("bert", pytest.param("roberta", marks=pytest.mark.slow)))
def test_an_encoder_is_refused_since_it_is_not_causal(family):
    config = AutoConfig.for_model(family, **SIZES, vocab_size=ROWS, pad_token_id=1)
    with pytest.raises(UnsupportedLanguageModel, match=f"{family}.* is not causal"):
        find_language_model_traits(language_model_class(config).from_config(config))
