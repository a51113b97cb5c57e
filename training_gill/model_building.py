"""The model of a recipe: new adapters over frozen models, or those of a GILL repository."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.backbones_gill import load_backbones
from modeling_gill.conditioning_gill import conditioning_fields
from modeling_gill.image_encoder_gill import feature_shape
from modeling_gill.image_pooling_gill import ImagePooling
from modeling_gill.image_preprocessing_gill import load_image_processor
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

from .arguments import TOKENS_AROUND, ModelArguments
from .caches import CacheError, TextTargetsCache, read_cached_conditioning
from .recipe import RecipeError, lora_fields
from .record_step import PARTS

TRAINING_RECORD = "training.json"


def build_model(
    arguments: ModelArguments,
    dtype: torch.dtype,
    seed: int,
    cache: str | os.PathLike[str] | None = None,
    language_dtype: torch.dtype | None = None,
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
        language_dtype (`torch.dtype`, *optional*): Of the language model, where it learns and `dtype` is too coarse
            for the steps of an optimizer.

    Returns:
        Model, on the CPU, and processor.

    Raises:
        RecipeError: a model that cannot be found, or sizes that do not fit.
        CacheError: a cache that is damaged, or of another image generator.
    """
    try:
        if arguments.start_from:
            model, processor = _loaded(arguments.start_from, dtype, language_dtype or dtype)
        else:
            model, processor = _new(arguments, dtype, language_dtype or dtype, seed, cache)
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
        "visual_projection_depth": arguments.visual_projection_depth,
        "vision_pooling": arguments.vision_pooling,
        "vision_feature_layer": arguments.vision_feature_layer,
        "visual_resampler_layers": arguments.visual_resampler_layers,
        "visual_resampler_num_heads": arguments.visual_resampler_num_heads,
        "visual_resampler_num_patches": arguments.visual_resampler_num_patches,
        "predict_image_output_tokens": arguments.predict_image_output_tokens,
        "retrieval_dim": arguments.retrieval_dim,
        "mapper_hidden_size": arguments.mapper_hidden_size,
        "mapper_num_layers": arguments.mapper_num_layers,
        "mapper_num_heads": arguments.mapper_num_heads,
        "mapper_ffn_dim": arguments.mapper_ffn_dim,
        "img_logit_scaling": arguments.img_logit_scaling,
        "img_state_layers": _layers(arguments.img_state_layers),
        "img_state_combination": arguments.img_state_combination,
        "distinct_image_states": arguments.distinct_image_states,
        "use_decision_head": False,  # `train_decision_head` adds one
    }


def _layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(layer) for layer in text.split(",")]
    except ValueError:
        raise RecipeError(f"`img_state_layers` must be integers with commas between them, got {text!r}.") from None


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
    # What a projection makes has a position for each `[IMG]` token, whatever the generator's text encoders make.
    length = arguments.num_image_output_tokens if arguments.mapper_type == "projection" else None
    if cache is not None and TextTargetsCache.exists(Path(cache)):
        tensors = read_cached_conditioning(Path(cache), name, revision)
        if length is not None:
            tensors = tuple(replace(tensor, length=tensor.length and length) for tensor in tensors)
    else:
        generator = FrozenModel("image generator", name, "`image_generator`", revision)
        try:
            tensors = conditioning_of_configs(generator, length)
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
        **conditioning_fields(tensors),
    }


def token_fields(around: Mapping[str, str], token_id: Callable[[str], int], text_config: Any) -> dict[str, Any]:
    """Fields of [`GillConfig`] for the tokens around images.

    Args:
        around (`Mapping[str, str]`): Those of [`TOKENS_AROUND`] that are set.
        token_id: From a token to its id.
        text_config (`PretrainedConfig`): Of the language model.
    """
    ids = {f"{name}_id": token_id(token) for name, token in around.items()}
    rows = text_config.get_text_config().vocab_size
    return {**ids, "added_token_ids": [i for i in ids.values() if i >= rows] or None}


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


def _loaded(
    start_from: str | list[str], dtype: torch.dtype, language_dtype: torch.dtype
) -> tuple[GillForConditionalGeneration, GillProcessor]:
    first, *others = [start_from] if isinstance(start_from, str) else start_from
    config = GillConfig.from_pretrained(first)
    if config.language_model_id is None:
        model = GillForConditionalGeneration.from_pretrained(first, dtype=torch.float32)
        model.language_model.to(language_dtype)
        model.vision_model.to(dtype)
    else:
        backbones = _backbones(config, dtype, language_dtype)
        model = GillForConditionalGeneration.from_pretrained(
            first, dtype=torch.float32, language_model=backbones[0], vision_model=backbones[1]
        )
    for name in others:
        _take_trained(model, first, name)
    return model, GillProcessor.from_pretrained(first)


def _backbones(config: GillConfig, dtype: torch.dtype, language_dtype: torch.dtype) -> tuple[Any, Any]:
    if language_dtype == dtype:
        return load_backbones(config, dtype)
    language_model, vision_model = load_backbones(config, language_dtype)
    return language_model, vision_model.to(dtype)


def _take_trained(model: GillForConditionalGeneration, first: str, name: str) -> None:
    """Take the adapters that the training of another repository has trained over the same frozen models.

    Raises:
        RecipeError: it says not what it trained, or has other frozen models or other rows of added tokens.
    """
    try:
        record = json.loads(Path(cached_file(name, TRAINING_RECORD)).read_text(encoding="utf-8"))
        trained = list(record["losses"]["train"])
        places = [place for part in trained for place in PARTS[part]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"`start_from` names {name!r} after {first!r}, but its {TRAINING_RECORD} does not say what it has trained "
            f"({type(error).__name__}: {error}); expected the result of a training from records."
        ) from error
    if "language_model" in trained:
        raise RecipeError(f"`start_from` names {name!r} after {first!r}, but it has a language model of its own.")
    other = GillForConditionalGeneration.from_pretrained(
        name, dtype=torch.float32, language_model=model.language_model, vision_model=model.vision_model
    )
    named = ("language_model_id", "vision_model_id", "image_generator_id", "added_token_ids")
    for field in (*named, "num_visual_tokens", "visual_resampler_layers"):
        ours, theirs = getattr(model.config, field), getattr(other.config, field)
        if ours != theirs:
            raise RecipeError(f"`start_from` names {first!r} of {field} {ours!r}, and {name!r} of {theirs!r}.")
    for place in ("added_embeddings", "added_head"):
        ours, theirs = getattr(model, place), getattr(other, place)
        if ours is not None and not torch.equal(ours.weight, theirs.weight):
            raise RecipeError(
                f"{first!r} and {name!r} of `start_from` have different rows for tokens that the language model lacks; "
                "expected the same, which the same `seed` gives."
            )
    for place in places:
        if getattr(model, place) is not None:
            getattr(model, place).load_state_dict(getattr(other, place).state_dict())


def _new(
    arguments: ModelArguments,
    dtype: torch.dtype,
    language_dtype: torch.dtype,
    seed: int,
    cache: str | os.PathLike[str] | None,
) -> tuple[GillForConditionalGeneration, GillProcessor]:
    language, vision = frozen_models(arguments)
    img_tokens = (
        arguments.img_tokens.split(",")
        if arguments.img_tokens
        else [f"[IMG{i}]" for i in range(arguments.num_image_output_tokens)]
    )
    tokenizer = load_part(AutoTokenizer, language, "tokenizer", padding_side="left")
    around = {name: getattr(arguments, name) for name in TOKENS_AROUND if getattr(arguments, name) is not None}
    GillProcessor.extend_tokenizer(tokenizer, [*around.values(), *img_tokens], arguments.image_token)
    text_config = load_part(AutoConfig, language, "configuration")
    vision_config = load_vision_config(vision)
    image_processor = load_part(load_image_processor, vision, "image processor")
    fields = adapter_fields(arguments)
    # Where all patches are read, those of an image as the image processor prepares it.
    counted = "visual_resampler_num_patches" if arguments.visual_resampler_layers else "num_visual_tokens"
    if fields[counted] is None and arguments.vision_pooling == "patches":
        pooling = ImagePooling("patches", arguments.vision_feature_layer)
        fields[counted] = feature_shape(vision_config, pooling, image_processor)[0]
    config = GillConfig(
        text_config=text_config,
        vision_config=vision_config,
        language_model_id=language.name,
        language_model_revision=language.revision,
        vision_model_id=vision.name,
        vision_model_revision=vision.revision,
        image_token_id=tokenizer.cls_token_id,
        image_output_token_ids=tokenizer.convert_tokens_to_ids(img_tokens),
        **token_fields(around, tokenizer.convert_tokens_to_ids, text_config),
        **fields,
        **generator_fields(arguments, cache),
    )
    feature_shape(config.vision_config, config.image_pooling, image_processor)  # they must fit each other
    torch.manual_seed(seed)
    model = GillForConditionalGeneration(config, defer_backbones=True)
    model.attach_backbones(*_backbones(config, dtype, language_dtype))
    for option in ("initializer_token", "initializer_text"):
        if getattr(arguments, option) is not None:
            begin_img_rows_as(model, tokenizer, getattr(arguments, option), option)
    model.generation_config = generation_config(language, text_config, tokenizer)
    processor = GillProcessor(
        image_processor,
        tokenizer,
        config.num_visual_tokens,
        img_tokens,
        image_token=arguments.image_token,
        chat_template=arguments.chat_template,
        **around,
    )
    return model, processor


__all__ = [
    "TRAINING_RECORD",
    "adapter_fields",
    "add_lora",
    "build_model",
    "frozen_models",
    "generator_fields",
    "token_fields",
]
