"""The model of a recipe: new adapters over frozen models, or those of a GILL repository."""

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.backbones_gill import load_backbones
from modeling_gill.conditioning_gill import conditioning_fields
from modeling_gill.image_encoder_gill import ImagePooling, feature_shape, load_image_processor
from modeling_gill.language_model_lora_gill import has_lora
from pipeline_gill.frozen_models import (
    FrozenModel,
    FrozenModelError,
    full_path,
    generation_config,
    load_part,
    load_vision_config,
)
from pipeline_gill.generator_configs import conditioning_of_configs

from .arguments import ModelArguments
from .caches import CacheError, TextTargetsCache, read_cached_conditioning
from .recipe import RecipeError, lora_fields


def build_model(
    arguments: ModelArguments, dtype: torch.dtype, seed: int, cache: str | os.PathLike[str] | None = None
) -> tuple[GillForConditionalGeneration, GillProcessor]:
    """
    Load the frozen models and put adapters between them.

    Args:
        arguments (`ModelArguments`): Of the recipe.
        dtype (`torch.dtype`): Of the frozen models; adapters are float32.
        seed (`int`): Of the new adapters.
        cache (`str` or `os.PathLike`, *optional*):
            Of `gill precompute`, which says what the image generator is conditioned on. Without it, that is read from
            the configurations of the generator, if it is of a known class.

    Returns:
        Model, on the CPU, and processor.

    Raises:
        RecipeError: a model that cannot be found, or sizes that do not fit.
        CacheError: a cache that is damaged, or of another image generator.
    """
    try:
        model, processor = _loaded(arguments, dtype) if arguments.start_from else _new(arguments, dtype, seed, cache)
        lora = lora_fields(arguments.lora)
        if lora is not None and not has_lora(model.language_model):
            add_lora(model, lora, seed)
    except (RecipeError, CacheError):
        raise
    except (OSError, ImportError, ValueError) as error:
        raise RecipeError(str(error)) from error
    return model, processor


def frozen_models(arguments: ModelArguments) -> tuple[FrozenModel, FrozenModel]:
    """Where the language model and the image encoder of a recipe are."""
    language, vision = full_path(arguments.language_model), full_path(arguments.vision_model)
    return (
        FrozenModel("language model", language, "`language_model`", arguments.language_model_revision),
        FrozenModel("image encoder", vision, "`vision_model`", arguments.vision_model_revision),
    )


def adapter_fields(arguments: ModelArguments) -> dict[str, Any]:
    """Fields of [`GillConfig`] for new adapters, but those that depend on the frozen models."""
    return {
        "num_visual_tokens": arguments.num_visual_tokens,
        "vision_pooling": arguments.vision_pooling,
        "vision_feature_layer": arguments.vision_feature_layer,
        "retrieval_dim": arguments.retrieval_dim,
        "mapper_hidden_size": arguments.mapper_hidden_size,
        "mapper_num_layers": arguments.mapper_num_layers,
        "mapper_num_heads": arguments.mapper_num_heads,
        "mapper_ffn_dim": arguments.mapper_ffn_dim,
        "img_logit_scaling": arguments.img_logit_scaling,
        "use_decision_head": False,  # `train_decision_head` adds one
    }


def generator_fields(arguments: ModelArguments, cache: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Fields of [`GillConfig`] for the image generator; `cache` as for [`build_model`].

    Raises:
        RecipeError: the recipe has a mapper and names no image generator.
        CacheError: a cache that is damaged, or of another image generator.
        FrozenModelError: without a cache, a generator that cannot be found or is of an unknown class.
    """
    if arguments.mapper_type == "none":
        return {"mapper_type": None}
    if arguments.image_generator is None:
        raise RecipeError(f"`mapper_type` is {arguments.mapper_type!r}, but `image_generator` is not set.")
    name, revision = full_path(arguments.image_generator), arguments.image_generator_revision
    if cache is not None and TextTargetsCache.exists(Path(cache)):
        fields = conditioning_fields(read_cached_conditioning(Path(cache), name, revision))
    else:
        generator = FrozenModel("image generator", name, "`image_generator`", revision)
        try:
            fields = conditioning_fields(conditioning_of_configs(generator))
        except FrozenModelError as error:
            if cache is None:
                raise
            raise CacheError(
                f"There is no cache of text targets in {str(cache)!r}, which would say what the {generator} is "
                "conditioned on: make it with `gill precompute`, or name another folder with `cache`."
            ) from error
    return {
        "mapper_type": arguments.mapper_type,
        "image_generator_id": name,
        "image_generator_revision": revision,
        **fields,
    }


@torch.no_grad()
def begin_img_rows_as(
    model: GillForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, text: str, option: str
) -> None:
    """Initialize the `[IMG]` rows with rows of known tokens, as textual inversion does.

    Args:
        model ([`GillForConditionalGeneration`]): With its language model.
        tokenizer: Of the language model.
        text (`str`): One token for all rows, or as many tokens as there are rows.
        option (`str`): `"initializer_token"` or `"initializer_text"`.

    Raises:
        RecipeError: another number of tokens, or tokens that the language model does not know.
    """
    ids = tokenizer(text, add_special_tokens=False).input_ids
    weight = model.img_embeddings.weight
    if option == "initializer_token":
        expected, wanted = 1, "one token of the language model"
    else:
        expected = len(weight)
        wanted = f"{expected} tokens of the language model, one for each of the {expected} `[IMG]` rows"
    unknown = {tokenizer.unk_token_id, model.config.image_token_id, *model.config.image_output_token_ids}
    if len(ids) != expected or unknown.intersection(ids):
        raise RecipeError(
            f"`{option}` must be {wanted}, got {text!r}, which is {len(ids)}: {tokenizer.convert_ids_to_tokens(ids)}."
        )
    table = model.language_model.get_input_embeddings().weight
    weight.copy_(table[torch.tensor(ids, device=table.device)].expand_as(weight))


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


def _loaded(arguments: ModelArguments, dtype: torch.dtype) -> tuple[GillForConditionalGeneration, GillProcessor]:
    assert arguments.start_from is not None
    config = GillConfig.from_pretrained(arguments.start_from)
    if config.is_self_contained:
        model = GillForConditionalGeneration.from_pretrained(arguments.start_from, dtype=torch.float32)
        model.language_model.to(dtype)
        model.vision_model.to(dtype)
    else:
        backbones = load_backbones(config, dtype)
        model = GillForConditionalGeneration.from_pretrained(
            arguments.start_from, dtype=torch.float32, language_model=backbones[0], vision_model=backbones[1]
        )
    return model, GillProcessor.from_pretrained(arguments.start_from)


def _new(
    arguments: ModelArguments, dtype: torch.dtype, seed: int, cache: str | os.PathLike[str] | None
) -> tuple[GillForConditionalGeneration, GillProcessor]:
    language, vision = frozen_models(arguments)
    img_tokens = (
        arguments.img_tokens.split(",")
        if arguments.img_tokens
        else [f"[IMG{i}]" for i in range(arguments.num_image_output_tokens)]
    )
    tokenizer = load_part(AutoTokenizer, language, "tokenizer", padding_side="left")
    GillProcessor.extend_tokenizer(tokenizer, img_tokens)
    text_config = load_part(AutoConfig, language, "configuration")
    vision_config = load_vision_config(vision)
    image_processor = load_part(load_image_processor, vision, "image processor")
    fields = adapter_fields(arguments)
    if arguments.num_visual_tokens is None:
        pooling = ImagePooling(arguments.vision_pooling, arguments.vision_feature_layer)
        fields["num_visual_tokens"] = feature_shape(vision_config, pooling, image_processor)[0]
    config = GillConfig(
        text_config=text_config,
        vision_config=vision_config,
        language_model_id=language.name,
        language_model_revision=language.revision,
        vision_model_id=vision.name,
        vision_model_revision=vision.revision,
        image_token_id=tokenizer.cls_token_id,
        image_output_token_ids=tokenizer.convert_tokens_to_ids(img_tokens),
        **fields,
        **generator_fields(arguments, cache),
    )
    feature_shape(config.vision_config, config.image_pooling, image_processor)  # they must fit each other
    torch.manual_seed(seed)
    model = GillForConditionalGeneration(config, defer_backbones=True)
    model.attach_backbones(*load_backbones(config, dtype))
    for option in ("initializer_token", "initializer_text"):
        if getattr(arguments, option) is not None:
            begin_img_rows_as(model, tokenizer, getattr(arguments, option), option)
    model.generation_config = generation_config(language, text_config, tokenizer)
    return model, GillProcessor(image_processor, tokenizer, config.num_visual_tokens, img_tokens)


__all__ = ["adapter_fields", "add_lora", "build_model", "frozen_models", "generator_fields"]
