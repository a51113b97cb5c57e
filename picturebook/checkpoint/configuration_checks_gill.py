"""Which fields of a configuration can be, each by itself and together."""

from typing import Any

from .image_pooling_gill import VISION_POOLINGS

MAPPER_TYPES = ("gill_mapper", "linear", "mlp", "encoder", "projection")
DECISION_INPUTS = ("states", "conditioning")
IMG_LOGIT_SCALINGS = ("absolute", "signed")
IMG_STATE_COMBINATIONS = ("mean", "learned")
# Tokens around the placeholders of an image that is read, and around the run of an image in the answer.
TOKENS_AROUND_IMAGES = (
    "image_start_token_id",
    "image_end_token_id",
    "image_output_start_token_id",
    "image_output_end_token_id",
)


def check_config(config: Any) -> None:
    """
    Refuse a configuration that cannot be.

    Args:
        config ([`GillConfig`]): With all of its fields.

    Raises:
        ValueError: an invalid size, id, kind or combination; the message names the field, its value and what was
            expected.
    """
    for name in (
        "num_visual_tokens",
        "visual_projection_depth",
        *(() if config.retrieval_dim is None else ("retrieval_dim",)),
        "mapper_hidden_size",
        "mapper_num_layers",
        "mapper_num_heads",
        "mapper_ffn_dim",
        "mapper_tokens_per_img_token",
        "vocab_size",
    ):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    for name in ("visual_projection_norm", "predict_image_output_tokens"):
        if not isinstance(getattr(config, name), bool):
            raise ValueError(f"`{name}` must be true or false, got {getattr(config, name)!r}.")
    if config.vision_pooling not in VISION_POOLINGS:
        raise ValueError(f"`vision_pooling` must be one of {VISION_POOLINGS}, got {config.vision_pooling!r}.")
    if not isinstance(config.vision_feature_layer, int) or isinstance(config.vision_feature_layer, bool):
        raise ValueError(f"`vision_feature_layer` must be an integer, got {config.vision_feature_layer!r}.")
    if config.vision_feature_layer != -1 and config.vision_pooling in ("pooler", "image_embeds"):
        raise ValueError(
            f"`vision_feature_layer` is {config.vision_feature_layer}, but `vision_pooling` {config.vision_pooling!r} "
            'follows the last layer; expected -1, or "cls", "mean" or "patches".'
        )
    _check_visual_resampler(config)
    _check_tokens(config)
    if config.mapper_type is not None and config.mapper_type not in MAPPER_TYPES:
        raise ValueError(f"`mapper_type` must be one of {MAPPER_TYPES} or None, got {config.mapper_type!r}.")
    if config.conditioning is not None and config.mapper_type in ("linear", "mlp", "encoder"):
        names = [tensor.name for tensor in config.conditioning_tensors]
        raise ValueError(
            f"`mapper_type` {config.mapper_type!r} makes `prompt_embeds` of a fixed length alone, not {names}; "
            "expected 'gill_mapper' or 'projection'."
        )
    if config.mapper_type == "projection":
        for tensor in config.conditioning_tensors:
            if tensor.length not in (None, config.num_image_output_tokens):
                raise ValueError(
                    f"`mapper_type` 'projection' makes one position of each of the {config.num_image_output_tokens} "
                    f"`image_output_token_ids`, but `{tensor.name}` has a length of {tensor.length}; expected "
                    "equal numbers."
                )
    if config.retrieval_dim is None and (config.use_decision_head or config.mapper_type is None):
        name = "use_decision_head" if config.use_decision_head else "mapper_type"
        raise ValueError(
            f"`retrieval_dim` is None and `{name}` is {getattr(config, name)!r}; expected a model that retrieves "
            "images, or one that generates them without deciding."
        )
    if config.decision_input not in DECISION_INPUTS:
        raise ValueError(f"`decision_input` must be one of {DECISION_INPUTS}, got {config.decision_input!r}.")
    if config.decision_input == "conditioning" and (config.mapper_type is None or config.conditioning is not None):
        raise ValueError(
            "`decision_input` 'conditioning' needs a mapper that makes one tensor of a fixed length; this one has "
            f"`mapper_type` {config.mapper_type!r} and the tensors "
            f"{[tensor.name for tensor in config.conditioning_tensors]}."
        )
    if config.mapper_hidden_size % config.mapper_num_heads:
        raise ValueError(
            f"`mapper_hidden_size` {config.mapper_hidden_size} is no multiple of `mapper_num_heads` "
            f"{config.mapper_num_heads}."
        )
    _check_img_states(config)
    if config.img_logit_scaling not in IMG_LOGIT_SCALINGS:
        raise ValueError(f"`img_logit_scaling` must be one of {IMG_LOGIT_SCALINGS}, got {config.img_logit_scaling!r}.")
    if not 0 <= config.decision_dropout < 1:
        raise ValueError(f"`decision_dropout` must lie in [0, 1), got {config.decision_dropout}.")
    if config.language_model_id is not None and config.vision_model_id is None:
        raise ValueError(
            "A checkpoint holds the image encoder only with the language model: `language_model_id` is "
            f"{config.language_model_id!r}, `vision_model_id` is None; expected both names, that of the image "
            "encoder, or neither."
        )
    if config.language_model_lora is not None and config.language_model_id is None:
        raise ValueError(
            f"`language_model_lora` is {config.language_model_lora!r}, but `language_model_id` is None; expected the "
            "name of the language model that it belongs to."
        )


def _check_visual_resampler(config: Any) -> None:
    layers, heads, patches = (
        getattr(config, f"visual_resampler_{name}") for name in ("layers", "num_heads", "num_patches")
    )
    if type(layers) is not int or layers < 0:
        raise ValueError(f"`visual_resampler_layers` must be 0 or a positive integer, got {layers!r}.")
    if not layers:
        if patches is not None:
            raise ValueError(f"`visual_resampler_num_patches` is {patches!r}, but `visual_resampler_layers` is 0.")
        return
    if config.vision_pooling != "patches":
        raise ValueError(
            f"`visual_resampler_layers` is {layers}, but `vision_pooling` {config.vision_pooling!r} gives one vector "
            'of an image; expected "patches".'
        )
    for name, value in (("visual_resampler_num_heads", heads), ("visual_resampler_num_patches", patches)):
        if type(value) is not int or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    if config.vision_dim % heads:
        raise ValueError(
            f"The width of the image encoder's patches, {config.vision_dim}, is no multiple of "
            f"`visual_resampler_num_heads` {heads}."
        )


def _check_img_states(config: Any) -> None:
    layers, combination = config.img_state_layers, config.img_state_combination
    if layers is None:
        if combination is not None:
            raise ValueError(f"`img_state_combination` is {combination!r}, but `img_state_layers` is None.")
        return
    if not layers or any(type(layer) is not int for layer in layers) or len(set(layers)) != len(layers):
        raise ValueError(f"`img_state_layers` must be one or more different integers, got {layers!r}.")
    count = getattr(config.text_config.get_text_config(), "num_hidden_layers", None)
    if isinstance(count, int) and any(not -count - 1 <= layer <= count for layer in layers):
        raise ValueError(
            f"`img_state_layers` is {layers}, but the language model has {count} layers; expected indices from "
            f"{-count - 1} to {count}."
        )
    if combination not in IMG_STATE_COMBINATIONS:
        raise ValueError(f"`img_state_combination` must be one of {IMG_STATE_COMBINATIONS}, got {combination!r}.")


def check_processor(config: Any, processor: Any) -> None:
    """
    Refuse a processor of another model: it would ask for images by tokens that this one does not know as such.

    Args:
        config ([`GillConfig`]): Of the model.
        processor ([`GillProcessor`]): That makes its batches.

    Raises:
        ValueError: images that are other tokens for the processor than for the model; the message has both.
    """
    for name in ("image_token_id", "image_output_token_ids", "num_visual_tokens", *TOKENS_AROUND_IMAGES):
        of_model, of_processor = getattr(config, name), getattr(processor, name, None)
        if name in TOKENS_AROUND_IMAGES:
            token = getattr(processor, name.removesuffix("_id"))
            of_processor = None if token is None else processor.tokenizer.convert_tokens_to_ids(token)
        if of_model != of_processor:
            raise ValueError(
                f"The processor contradicts the model's configuration: its `{name}` is {of_processor}, and that of the "
                f"configuration is {of_model}; expected the processor that the model was saved with."
            )


def _check_tokens(config: Any) -> None:
    for name in ("image_output_token_ids", "added_token_ids"):
        ids = getattr(config, name)
        if ids is not None and (not ids or len(set(ids)) != len(ids)):
            raise ValueError(f"`{name}` must be one or more different ids, got {ids}.")
    run, added = config.image_output_token_ids, config.added_token_ids or []
    around = {name: getattr(config, name) for name in TOKENS_AROUND_IMAGES if getattr(config, name) is not None}
    single = {"image_token_id": config.image_token_id, **around}
    lists = {"image_output_token_ids": run, "added_token_ids": added}
    for name, ids in {**lists, **{name: [i] for name, i in single.items()}}.items():
        outside = [i for i in ids if not isinstance(i, int) or not 0 <= i < config.vocab_size]
        if outside:
            raise ValueError(f"`{name}` holds {outside}, outside of the {config.vocab_size} ids of `vocab_size`.")
    for name, i in single.items():
        others = {"image_output_token_ids": run, **{key: [value] for key, value in single.items() if key != name}}
        for other, ids in others.items():
            if i in ids:
                raise ValueError(f"`{name}` {i} is also {'one of ' if other.endswith('ids') else ''}`{other}`.")
    if set(added) & set(run):
        raise ValueError(f"`added_token_ids` {added} and `image_output_token_ids` {run} have ids in common.")
    for name, i in around.items():
        if i >= config.num_language_model_rows and i not in added:
            raise ValueError(
                f"`{name}` is {i}, but the language model's embedding has {config.num_language_model_rows} rows; "
                "expected the id of one, or one of `added_token_ids`."
            )
    # An image in the prompt has both tokens or neither; one in the answer may do without an end.
    has_start, has_end, has_output_start, has_output_end = (name in around for name in TOKENS_AROUND_IMAGES)
    if has_start != has_end or (has_output_end and not has_output_start):
        start, end = TOKENS_AROUND_IMAGES[:2] if has_start != has_end else TOKENS_AROUND_IMAGES[2:]
        raise ValueError(
            f"`{start}` is {getattr(config, start)}, `{end}` is {getattr(config, end)}; expected both ids or none."
        )
    if not config.predict_image_output_tokens and config.image_output_start_token_id is None:
        raise ValueError(
            "`predict_image_output_tokens` is False and `image_output_start_token_id` is None, so that nothing "
            "could open an image; expected the id of the token that does."
        )


__all__ = ["IMG_LOGIT_SCALINGS", "MAPPER_TYPES", "TOKENS_AROUND_IMAGES", "check_config", "check_processor"]
