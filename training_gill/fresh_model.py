"""The model that a recipe asks for: new adapters over frozen models, or those of a GILL repository."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.backbones_gill import load_backbones
from modeling_gill.language_model_lora_gill import has_lora

from .frozen_models import conditioning_shape, full_name, load_part, load_vision_config
from .recipe import ModelChoices, RecipeError, lora_fields

# What a chat would take from an answer; the authors' default.
_MAX_NEW_TOKENS = 32


def build_model(
    choices: ModelChoices, dtype: torch.dtype, seed: int
) -> tuple[GillForConditionalGeneration, GillProcessor]:
    """
    Load the frozen models and put adapters between them.

    Args:
        choices (`ModelChoices`): Of the recipe.
        dtype (`torch.dtype`): Of the frozen models; adapters are float32.
        seed (`int`): Of the new adapters.

    Returns:
        Model, on the CPU, and processor.

    Raises:
        RecipeError: a model that cannot be found, or sizes that do not fit.
    """
    try:
        model, processor = _started(choices, dtype) if choices.start_from else _fresh(choices, dtype, seed)
        lora = lora_fields(choices.lora)
        if lora is not None and not has_lora(model.language_model):
            add_lora(model, lora, seed)
    except (OSError, ImportError) as error:
        raise RecipeError(str(error)) from error
    return model, processor


@torch.no_grad()
def begin_img_rows_as(model: GillForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, token: str) -> None:
    """Let every `[IMG]` row begin as the row of a token that the language model knows, as textual inversion does.

    Args:
        model ([`GillForConditionalGeneration`]): With its language model.
        tokenizer: Of the language model.
        token (`str`): Text of one token.

    Raises:
        RecipeError: the text is not one token.
    """
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id or ids[0] in model.config.image_output_token_ids:
        raise RecipeError(
            f"`initializer_token` must be one token of the language model, got {token!r}, which is "
            f"{tokenizer.convert_ids_to_tokens(ids)}."
        )
    assert model.language_model is not None
    row = model.language_model.get_input_embeddings().weight[ids[0]]
    model.img_embeddings.weight.copy_(row.expand_as(model.img_embeddings.weight))


def add_lora(model: GillForConditionalGeneration, fields: dict[str, Any], seed: int) -> None:
    """Put peft's LoRA on the language model; in float32, as all that is trained.

    Raises:
        RecipeError: fields that LoraConfig does not take, or that do not fit the model.
    """
    from peft import LoraConfig

    torch.manual_seed(seed)
    try:
        model.add_language_model_lora(LoraConfig(task_type="CAUSAL_LM", **fields))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"`lora` {fields}: {error}") from error
    for name, weight in model.language_model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()


def _started(choices: ModelChoices, dtype: torch.dtype) -> tuple[GillForConditionalGeneration, GillProcessor]:
    assert choices.start_from is not None
    config = GillConfig.from_pretrained(choices.start_from)
    if config.is_self_contained:
        model = GillForConditionalGeneration.from_pretrained(choices.start_from, dtype=torch.float32)
        model.language_model.to(dtype)
        model.vision_model.to(dtype)
    else:
        backbones = load_backbones(config, dtype)
        model = GillForConditionalGeneration.from_pretrained(
            choices.start_from, dtype=torch.float32, language_model=backbones[0], vision_model=backbones[1]
        )
    return model, GillProcessor.from_pretrained(choices.start_from)


def _fresh(choices: ModelChoices, dtype: torch.dtype, seed: int) -> tuple[GillForConditionalGeneration, GillProcessor]:
    language, vision = full_name(choices.language_model), full_name(choices.vision_model)
    language_revision, vision_revision = choices.language_model_revision, choices.vision_model_revision
    fields: dict[str, Any] = {"mapper_type": None if choices.mapper_type == "none" else choices.mapper_type}
    if fields["mapper_type"] is not None:
        if choices.image_generator is None:
            raise RecipeError(f"`mapper_type` is {choices.mapper_type!r}, but `image_generator` is not set.")
        generator = full_name(choices.image_generator)
        length, width = conditioning_shape(generator, choices.image_generator_revision)
        fields |= {
            "image_generator_id": generator,
            "image_generator_revision": choices.image_generator_revision,
            "conditioning_length": length,
            "conditioning_dim": width,
        }
    named = choices.img_tokens.split(",") if choices.img_tokens else None
    img_tokens = named or [f"[IMG{i}]" for i in range(choices.num_image_output_tokens)]
    tokenizer = load_part(AutoTokenizer, "language_model", language, language_revision, padding_side="left")
    GillProcessor.extend_tokenizer(tokenizer, img_tokens)
    text_config = load_part(AutoConfig, "language_model", language, language_revision)
    try:
        config = GillConfig(
            text_config=text_config,
            vision_config=load_vision_config(vision, vision_revision),
            language_model_id=language,
            language_model_revision=language_revision,
            vision_model_id=vision,
            vision_model_revision=vision_revision,
            image_token_id=tokenizer.cls_token_id,
            image_output_token_ids=tokenizer.convert_tokens_to_ids(img_tokens),
            num_visual_tokens=choices.num_visual_tokens,
            retrieval_dim=choices.retrieval_dim,
            mapper_hidden_size=choices.mapper_hidden_size,
            mapper_num_layers=choices.mapper_num_layers,
            mapper_num_heads=choices.mapper_num_heads,
            mapper_ffn_dim=choices.mapper_ffn_dim,
            img_logit_scaling=choices.img_logit_scaling,
            # `training_gill.decision` adds one.
            use_decision_head=False,
            **fields,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error
    torch.manual_seed(seed)
    model = GillForConditionalGeneration(config, defer_backbones=True)
    model.attach_backbones(*load_backbones(config, dtype))
    if choices.initializer_token is not None:
        begin_img_rows_as(model, tokenizer, choices.initializer_token)
    model.generation_config = _generation_config(text_config, tokenizer)
    image_processor = load_part(AutoImageProcessor, "vision_model", vision, vision_revision)
    processor = GillProcessor(image_processor, tokenizer, config.num_visual_tokens, img_tokens)
    return model, processor


def _generation_config(text_config: PretrainedConfig, tokenizer: Any) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        bos_token_id=text_config.get_text_config().bos_token_id,
        # Answers end at a newline, as the authors' do, see `GillProcessor.split_answer`.
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )


__all__ = ["add_lora", "build_model"]
