"""Small DreamLLMs with random weights: the model with tokens around images, queries without a head and a projection."""

from typing import Any

from transformers import AutoConfig, CLIPImageProcessorPil, CLIPVisionConfig, PreTrainedTokenizerFast

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from tests.conftest import make_checkpoint
from tests.small_model import LANGUAGE_MODELS, random_model

AROUND_IMAGES = {
    "image_start_token": "<im_start>",
    "image_end_token": "<im_end>",
    "image_output_start_token": "<dream_start>",
    "image_output_end_token": "<dream_end>",
}
# Rows of the language model; the queries follow them.
ADDED_TOKENS = ["<im_patch>", *AROUND_IMAGES.values(), "<dream>"]
NUM_QUERIES, NUM_PATCHES = 3, 4


def small_dream_processor() -> GillProcessor:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_checkpoint().bpe(300, ["<s>", "<pad>", "</s>", "<unk>"]),
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    queries = [f"<dream_query_{i}>" for i in range(NUM_QUERIES)]
    tokenizer.add_special_tokens({"extra_special_tokens": [*ADDED_TOKENS, *queries]})
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return GillProcessor(image_processor, tokenizer, NUM_PATCHES, queries, "<im_patch>", **AROUND_IMAGES)


def small_dream_config(processor: GillProcessor, language_model: str = "llama", **fields: Any) -> GillConfig:
    """The language model has a row for every token but the queries, unless `num_rows` says less."""
    rows = fields.pop("num_rows", processor.image_output_token_ids[0])
    ids = {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    defaults: dict[str, Any] = {
        "text_config": AutoConfig.for_model(language_model, vocab_size=rows, **ids, **LANGUAGE_MODELS[language_model]),
        "vision_config": CLIPVisionConfig(
            hidden_size=20,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=8,
        ),
        "vocab_size": len(processor.tokenizer),
        "image_token_id": processor.image_token_id,
        "image_output_token_ids": processor.image_output_token_ids,
        **{f"{name}_id": processor.tokenizer.convert_tokens_to_ids(token) for name, token in AROUND_IMAGES.items()},
        "predict_image_output_tokens": False,
        "num_visual_tokens": None,
        "vision_pooling": "patches",
        "vision_feature_layer": -2,
        "retrieval_dim": None,
        "mapper_type": "projection",
        "conditioning_dim": 12,
    }
    return GillConfig(**{**defaults, **fields})


def small_dream_model(
    processor: GillProcessor, language_model: str = "llama", **fields: Any
) -> GillForConditionalGeneration:
    return random_model(small_dream_config(processor, language_model, **fields))
