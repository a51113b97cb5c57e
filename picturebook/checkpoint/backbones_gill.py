"""The language model and the image encoder: building, loading and checking them against the configuration."""

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from .configuration_gill import GillConfig
from .decoder_traits_gill import DecoderTraits, find_decoder_traits
from .image_encoder_gill import build_image_encoder, feature_shape_of, load_image_encoder
from .language_model_head_gill import LogitTransform, check_quantized_head, find_embedding_scale, find_logit_transform

# Options that hold for the repositories of the backbones as well. Others, such as `revision`, do not.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
LANGUAGE_MODEL_OPTIONS = (
    "device_map",
    "quantization_config",
    "attn_implementation",
    "max_memory",
    "offload_folder",
    "offload_buffers",
    "offload_state_dict",
)


@dataclass(frozen=True)
class LanguageModelTraits:
    """
    What a language model does that the model and its training must do too.

    Attributes:
        logits ([`LogitTransform`]): What it does around its head.
        embedding_scale (`float`): Factor that its embedding module puts on the rows.
        decoder ([`DecoderTraits`]): How its decoder reads padding and continues from a cache.
    """

    logits: LogitTransform
    embedding_scale: float
    decoder: DecoderTraits


def find_language_model_traits(language_model: PreTrainedModel) -> LanguageModelTraits:
    """
    Try a language model.

    Raises:
        UnsupportedLanguageModel: it would be wrong between the adapters; the message names it and the reason.
    """
    # First, since a model that is not causal should be refused for that.
    decoder = find_decoder_traits(language_model)
    check_quantized_head(language_model)
    return LanguageModelTraits(
        find_logit_transform(language_model),
        find_embedding_scale(language_model.get_input_embeddings()),
        decoder,
    )


def language_model_class(config: PretrainedConfig) -> Any:
    """The Auto class that knows the language model of a configuration."""
    return AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText


def build_language_model(config: GillConfig) -> PreTrainedModel:
    """The language model with fresh weights, for a checkpoint that holds them to fill."""
    return language_model_class(config.text_config).from_config(config.text_config)


def load_backbones(
    config: GillConfig,
    dtype: torch.dtype,
    language_model: PreTrainedModel | None = None,
    vision_model: PreTrainedModel | None = None,
    **options: Any,
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Both backbones from where the configuration says, save those that are given.

    Args:
        dtype (`torch.dtype`): Dtype to load in.
        options: Those of `PreTrainedModel.from_pretrained`. `attn_implementation` is for both backbones;
            `device_map`, `quantization_config`, `max_memory`, `offload_folder`, `offload_buffers` and
            `offload_state_dict` are for the language model.

    Raises:
        OSError: a backbone that cannot be found, naming it and how to give another.
        ValueError: an image encoder whose weights are not all there.
    """
    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    attention = options.get("attn_implementation")
    if isinstance(attention, dict):
        options["attn_implementation"] = attention.get("text_config", attention.get(""))
        attention = attention.get("vision_config", attention.get(""))
    if language_model is None:
        chosen = {name: options[name] for name in LANGUAGE_MODEL_OPTIONS if options.get(name) is not None}
        if isinstance(chosen.get("device_map"), dict) and "disk" in chosen["device_map"].values():
            chosen["device_map"] = _place_each_module(config, chosen["device_map"])
        language_model = _load(
            language_model_class(config.text_config).from_pretrained,
            "language_model",
            config.language_model_id,
            config.language_model_revision,
            dtype=dtype,
            **hub,
            **chosen,
        )
    if vision_model is None:
        if attention is not None:
            hub["attn_implementation"] = attention
        vision_model = _load(
            load_image_encoder,
            "vision_model",
            config.vision_model_id,
            config.vision_model_revision,
            vision_config=config.vision_config,
            pooling=config.image_pooling,
            dtype=dtype,
            **hub,
        )
        device = language_model.get_input_embeddings().weight.device
        vision_model = vision_model if device.type == "meta" else vision_model.to(device)
    return language_model, vision_model


def check_backbones(config: GillConfig, language_model: PreTrainedModel, vision_model: PreTrainedModel | None) -> None:
    """Compare what the configuration says of the backbones with what they are.

    Args:
        vision_model (`PreTrainedModel`, *optional*): `None` where the image encoder is still to come.

    Raises:
        ValueError: naming every size that differs, with both numbers.
    """
    rows, width = language_model.get_input_embeddings().weight.shape
    head = language_model.get_output_embeddings()
    if head is None:
        raise ValueError(f"The language model {type(language_model).__name__} has no output embeddings.")
    sizes: dict[str, tuple[Any, Any]] = {
        "width of the language model's embedding (d)": (config.embedding_dim, width),
        "rows of the language model's embedding": (config.num_language_model_rows, rows),
        "width that the language model's head reads (d)": (config.embedding_dim, getattr(head, "in_features", width)),
    }
    if vision_model is not None:
        found = feature_shape_of(vision_model, config.image_pooling)
        sizes["shape of the image encoder's feature"] = (config.image_feature_shape, found)
    differences = [
        f"{size}: {expected} in the configuration, {actual} in the model"
        for size, (expected, actual) in sizes.items()
        if expected != actual
    ]
    if differences:
        raise ValueError("The configuration contradicts its backbones. " + "; ".join(differences) + ".")


def _place_each_module(config: GillConfig, device_map: dict[str, Any]) -> dict[str, Any]:
    """A device map with an entry for each module that has weights, since accelerate cannot offload a part of what an
    entry for a parent (such as `""`) places in memory. Tied weights are placed together."""
    with torch.device("meta"):
        model = language_model_class(config.text_config).from_config(config.text_config)
    each = {}
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            parents = [entry for entry in device_map if not entry or f"{name}.".startswith(f"{entry}.")]
            if not parents:
                return device_map
            each[name] = device_map[max(parents, key=len)]
    names = {module: name for name, module in model.named_modules()}
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is not None and head.weight is embeddings.weight:
        each[names[head]] = each[names[embeddings]]
    return each


def _load(load: Any, role: str, name: str | None, revision: str | None, **options: Any) -> PreTrainedModel:
    if name is None:
        raise ValueError(f"`{role}_id` is not set in the configuration: pass `{role}=` to `from_pretrained`.")
    try:
        return load(name, revision=revision or "main", **options)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"The {role.replace('_', ' ')} {name!r} (revision {revision or 'main'}), named by `{role}_id` in the "
            f"configuration, could not be loaded: {error}\nSet `{role}_id` to where it is, or pass a loaded one as "
            f"`{role}=`."
        ) from error


__all__ = [
    "LANGUAGE_MODEL_OPTIONS",
    "LanguageModelTraits",
    "build_image_encoder",
    "build_language_model",
    "check_backbones",
    "find_language_model_traits",
    "language_model_class",
    "load_backbones",
]
