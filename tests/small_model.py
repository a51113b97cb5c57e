"""Small models with random weights, self-contained, for everything that needs no golden answer."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from tests.conftest import make_checkpoint

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 24,
        "num_hidden_layers": 2,
        "ffn_dim": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 96,
        "dropout": 0.0,
    },
    "llama": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "max_position_embeddings": 96,
        "tie_word_embeddings": False,
    },
    "gpt2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 96},
}


def small_tokenizer(img_tokens: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = make_checkpoint().bpe(300, ["<s>", "<pad>", "</s>", "<unk>"])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    return GillProcessor.extend_tokenizer(wrapped, img_tokens)


def small_processor(num_image_output_tokens: int = 3, num_visual_tokens: int = 2) -> GillProcessor:
    img_tokens = [f"[IMG{i}]" for i in range(num_image_output_tokens)]
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return GillProcessor(image_processor, small_tokenizer(img_tokens), num_visual_tokens, img_tokens)


def small_config(
    processor: GillProcessor, language_model: str = "opt", spare_rows: int = 0, **fields: Any
) -> GillConfig:
    """Args: spare_rows: rows of the embedding beyond the tokens of text, which `[IMG]` tokens then overlie."""
    tokenizer = processor.tokenizer
    rows = processor.image_token_id + spare_rows
    ids = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    text = AutoConfig.for_model(language_model, vocab_size=rows, **ids, **LANGUAGE_MODELS[language_model])
    vision = CLIPVisionConfig(
        hidden_size=20, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=8
    )
    sizes: dict[str, Any] = {
        "mapper_hidden_size": 16,
        "mapper_num_layers": 1,
        "mapper_num_heads": 2,
        "mapper_ffn_dim": 16,
        "conditioning_length": 7,
        "conditioning_dim": 12,
        "retrieval_dim": 8,
    }
    defaults = {"vision_config": vision, "num_visual_tokens": processor.num_visual_tokens}
    return GillConfig(
        text_config=text,
        vocab_size=len(tokenizer),
        image_token_id=processor.image_token_id,
        image_output_token_ids=processor.image_output_token_ids,
        **{**defaults, **sizes, **fields},
    )


def small_model(processor: GillProcessor, language_model: str = "opt", **fields: Any) -> GillForConditionalGeneration:
    return random_model(small_config(processor, language_model, **fields))


def random_model(config: GillConfig) -> GillForConditionalGeneration:
    torch.manual_seed(0)
    model = GillForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Untrained models write one token for ever; these write something.
        for weight in model.language_model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
        model.img_embeddings.weight.copy_(torch.randn_like(model.img_embeddings.weight) * 0.5)
    model.generation_config.pad_token_id = 1
    model.generation_config.eos_token_id = None
    return model
