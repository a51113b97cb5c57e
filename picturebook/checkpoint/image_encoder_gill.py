"""The frozen image encoder: its class, its weights, and the feature of an image that it gives."""

import importlib
import inspect
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .image_pooling_gill import ImagePooling, height_and_width, patch_grid, pool_states
from .image_preprocessing_gill import preprocess_images

# Outputs of image processors that an encoder may not need. Those that it does need are arguments of its `forward`.
_OUTPUTS_OF_PROCESSORS = frozenset(
    {"pixel_attention_mask", "pixel_mask", "spatial_shapes", "image_sizes", "num_patches", "num_crops"}
    | {"image_num_crops", "num_local_patches", "num_tiles", "rows", "cols", "target_sizes", "reshaped_input_sizes"}
)
# Arguments of an encoder's `forward` that no image processor makes.
_OTHER_ARGUMENTS = frozenset(
    {"self", "pixel_values", "attention_mask", "head_mask", "labels", "bool_masked_pos", "noise", "return_dict"}
    | {"output_attentions", "output_hidden_states", "return_loss", "args", "kwargs", "input_ids", "position_ids"}
)
# How the classes of image encoders end that are parts of models.
_TOWERS = (
    *("VisionModel", "ImageModel", "VisionModelWithProjection", "VisionTransformer"),
    "VisionTransformerPretrainedModel",
)
# Shapes of features that were found by running encoders, by what these are made of.
_SHAPES: dict[Any, tuple[int, ...]] = {}
_MOST_SHAPES = 256


def image_encoder_class(vision_config: PretrainedConfig, pooling: ImagePooling) -> type[PreTrainedModel]:
    """
    The class of transformers for an image encoder: of a whole CLIP, that of its vision tower.

    Raises:
        ValueError: there is none.
    """
    if pooling.kind != "image_embeds" and type(vision_config) in MODEL_MAPPING:
        return MODEL_MAPPING[type(vision_config)]
    # The Auto classes do not know the towers of all families.
    module = importlib.import_module(type(vision_config).__module__.replace("configuration_", "modeling_"))
    classes: dict[str, type[PreTrainedModel]] = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, PreTrainedModel)
        and getattr(value, "config_class", None) is type(vision_config)
        and name.endswith(_TOWERS)
    }
    wanted = [name for name in classes if name.endswith("WithProjection") == (pooling.kind == "image_embeds")]
    if not wanted:
        projecting = " with a projection" if pooling.kind == "image_embeds" else ""
        raise ValueError(
            f"transformers has no image encoder{projecting} for {type(vision_config).__name__}, which "
            f"`vision_pooling` {pooling.kind!r} needs."
        )
    return classes[wanted[0]]


def build_image_encoder(vision_config: PretrainedConfig, pooling: ImagePooling) -> PreTrainedModel:
    """An image encoder with fresh weights."""
    model_class = image_encoder_class(vision_config, pooling)
    return model_class._from_config(vision_config, **_constructor_options(model_class, pooling))


def load_image_encoder(
    name: str, vision_config: PretrainedConfig, pooling: ImagePooling, **options: Any
) -> PreTrainedModel:
    """
    Load a pretrained image encoder, whole.

    Args:
        name (`str`): Hub repository or folder, also of a model that the encoder is a part of.
        options: Those of `PreTrainedModel.from_pretrained`.

    Raises:
        OSError: it cannot be found or read.
        ValueError: the repository lacks weights, which would be random numbers, different at each load.
    """
    model_class = image_encoder_class(vision_config, pooling)
    whole_class = None
    if model_class.base_model_prefix != "vision_model":
        # transformers finds a part of a whole model by the prefix of its class, which not all towers have.
        hub = {key: value for key, value in options.items() if key not in ("dtype", "attn_implementation")}
        published = type(AutoConfig.from_pretrained(name, **hub))
        whole_class = MODEL_MAPPING[published] if "vision_config" in published.sub_configs else None
    if whole_class is None:
        options |= _constructor_options(model_class, pooling)
        model, info = model_class.from_pretrained(name, output_loading_info=True, **options)
        missing = sorted(info["missing_keys"])
    else:
        whole, info = whole_class.from_pretrained(name, output_loading_info=True, **options)
        model = whole.vision_model
        missing = sorted(key for key in info["missing_keys"] if key.startswith("vision_model."))
    if missing:
        only_pooler = all("pool" in key for key in missing)
        way_out = (
            'set `vision_pooling` to "cls", "mean" or "patches", which do without'
            if only_pooler
            else "expected the repository of such an encoder"
        )
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{name!r} has no weights for {', '.join(missing[:3])}{more} of {model_class.__name__}, which would be "
            f"random numbers, different at each load; {way_out}."
        )
    return model


def feature_shape(
    vision_config: PretrainedConfig, pooling: ImagePooling, image_processor: Any | None = None
) -> tuple[int, ...]:
    """
    Shape of the feature of one image, found by running the encoder without weights: `(vision_dim,)`, or
    `(num_patches, vision_dim)`.

    Args:
        image_processor (*optional*): To prepare the images that it is run on; by default they are as large as the
            configuration says.

    Raises:
        ValueError: the encoder does not give this feature, naming it and the reason.
    """
    if image_processor is None:
        config_class: Any = type(vision_config)
        return _feature_shape(config_class, json.dumps(vision_config.to_dict(), default=str), pooling)
    images = preprocess_images(image_processor, [Image.new("RGB", (256, 256))] * 2)
    with torch.device("meta"):
        return feature_shape_of(build_image_encoder(vision_config, pooling), pooling, images)


@lru_cache(maxsize=256)
def _feature_shape(config_class: type[PretrainedConfig], fields: str, pooling: ImagePooling) -> tuple[int, ...]:
    with torch.device("meta"):
        return feature_shape_of(build_image_encoder(config_class.from_dict(json.loads(fields)), pooling), pooling)


def feature_shape_of(
    model: PreTrainedModel, pooling: ImagePooling, images: Mapping[str, torch.Tensor] | None = None
) -> tuple[int, ...]:
    """
    As [`feature_shape`], of a model.

    Args:
        images (`Mapping[str, torch.Tensor]`, *optional*):
            Images as the image processor prepares them, by default two of the size in the model's configuration.

    Raises:
        ValueError: the encoder does not give this feature, naming it and the reason.
    """
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        return feature_shape(model.config, pooling)  # accelerate moves its weights when it runs
    if images is not None:
        return _run_without_weights(model, pooling, images)
    # The run takes longer than all else of making a small model, and each of the same parts gives the same.
    fields = json.dumps(model.config.to_dict(), default=str)
    parts = tuple((name, type(module)) for name, module in model.named_modules())
    weights = tuple((name, weight.shape) for name, weight in model.named_parameters())
    key = (fields, parts, weights, pooling)
    if key not in _SHAPES:
        if len(_SHAPES) == _MOST_SHAPES:
            _SHAPES.clear()
        _SHAPES[key] = _run_without_weights(model, pooling, None)
    return _SHAPES[key]


def _run_without_weights(
    model: PreTrainedModel, pooling: ImagePooling, images: Mapping[str, torch.Tensor] | None
) -> tuple[int, ...]:
    name = type(model).__name__
    # The shape does not depend on masks, which cannot be looked at without weights.
    given = _example_images(model) if images is None else images
    inputs: dict[str, Any] = {key: None if "mask" in key else value for key, value in given.items()}
    num_images = len(inputs["pixel_values"])
    inputs["pixel_values"] = inputs["pixel_values"].to("meta")
    reader = _Reader(model, pooling)
    state = {**dict(reader.named_parameters()), **dict(reader.named_buffers())}
    was_training = model.training
    try:
        with torch.no_grad():
            features = torch.func.functional_call(
                reader.eval(), {key: value.to("meta") for key, value in state.items()}, (), inputs
            )
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        if name in str(error):
            raise
        raise ValueError(f"The image encoder {name} cannot be run on images alone: {error}") from error
    finally:
        model.train(was_training)
    if len(features) == 1:
        raise ValueError(_packs_images(name))
    if len(features) != num_images:
        raise ValueError(f"The image encoder {name} gives {len(features)} features for {num_images} images.")
    return tuple(features.shape[1:])


def encode_images(
    model: PreTrainedModel, pooling: ImagePooling, pixel_values: torch.Tensor, **kwargs: Any
) -> BaseModelOutputWithPooling:
    """
    Run an image encoder.

    Args:
        pixel_values (`torch.FloatTensor` of shape `(num_images, channels, height, width)`, or as the processor of the
            encoder shapes it).
        kwargs: The other outputs of the image processor, and arguments of the encoder such as `output_hidden_states`.

    Returns:
        [`~transformers.modeling_outputs.BaseModelOutputWithPooling`]: The encoder's output, with the feature as
        `pooler_output`.

    Raises:
        ValueError: the encoder does not give this feature, or images that it cannot read.
    """
    name, parameters = type(model).__name__, inspect.signature(model.forward).parameters
    if "grid_thw" in parameters:
        raise ValueError(_packs_images(name))
    if "pixel_values" not in parameters:
        raise ValueError(f"The image encoder {name} takes no `pixel_values`.")
    for key in [key for key in kwargs if key in _OUTPUTS_OF_PROCESSORS and key not in parameters]:
        value = kwargs.pop(key)
        if "mask" in key and value is not None and not bool(value.all()):
            raise ValueError(f"The images are padded, and the image encoder {name} takes no `{key}`.")
    if getattr(model.config, "mask_ratio", None) and "noise" in parameters:
        # MAE hides and shuffles patches at random, also when it only reads.
        model.config.mask_ratio = 0.0
    if "noise" in parameters:
        rows, columns = patch_grid(model.config, pixel_values) or (0, 0)
        order = torch.arange(rows * columns, device=pixel_values.device, dtype=torch.float32)
        kwargs["noise"] = order.expand(len(pixel_values), -1)
    wants_states = pooling.layer != -1
    if wants_states:
        kwargs["output_hidden_states"] = True
    if "return_dict" in parameters or "kwargs" in parameters:
        kwargs["return_dict"] = True
    outputs = model(pixel_values=pixel_values, **kwargs)
    if pooling.kind in ("pooler", "image_embeds"):
        key = "pooler_output" if pooling.kind == "pooler" else "image_embeds"
        features = outputs.get(key)
        if features is None:
            raise ValueError(
                f"The image encoder {name} has no pooled output, or not this one: `{key}` is None; expected another "
                '`vision_pooling`, such as "cls", "mean" or "patches".'
            )
        features = features.flatten(1) if features.dim() > 2 else features
    else:
        states = outputs.hidden_states[pooling.layer] if wants_states else outputs.last_hidden_state
        features = pool_states(states, pooling, model, pixel_values, kwargs.get("spatial_shapes"))
    if pooling.kind == "pooler" and features is outputs.pooler_output:
        return outputs
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=features,
        hidden_states=outputs.get("hidden_states"),
        attentions=outputs.get("attentions"),
    )


def take_image_inputs(model: PreTrainedModel, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remove from keyword arguments, and return, what the image processor made beside `pixel_values`."""
    names = _OUTPUTS_OF_PROCESSORS.union(inspect.signature(model.forward).parameters) - _OTHER_ARGUMENTS
    return {name: kwargs.pop(name) for name in names.intersection(kwargs)}


class _Reader(nn.Module):
    def __init__(self, model: PreTrainedModel, pooling: ImagePooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(self, **images: Any) -> torch.Tensor:
        return encode_images(self.model, self.pooling, **images).pooler_output  # type: ignore[return-value]


def _constructor_options(model_class: type[PreTrainedModel], pooling: ImagePooling) -> dict[str, bool]:
    """Leave a pooler out that is not used: its weights may be missing in the repository."""
    has_switch = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if has_switch and pooling.kind != "pooler" else {}


def _example_images(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Two images of the size that the configuration names."""
    config = model.config
    channels = getattr(config, "num_channels", None) or getattr(config, "in_channels", None) or 3
    if "spatial_shapes" in inspect.signature(model.forward).parameters:
        side = math.isqrt(config.num_patches)
        values = torch.zeros(2, side * side, channels * config.patch_size**2)
        shapes = torch.tensor([[side, side]] * 2, device="cpu")
        return {"pixel_values": values, "spatial_shapes": shapes, "pixel_attention_mask": values}
    height, width = height_and_width(getattr(config, "image_size", None) or 224)
    return {"pixel_values": torch.zeros(2, channels, height, width)}


def _packs_images(name: str) -> str:
    return (
        f"The image encoder {name} reads the patches of all images as one sequence, and a batch must have a row for "
        "each image; expected an encoder that takes them so, such as that of SigLIP 2, which also keeps their "
        "proportions (NaFlex)."
    )


__all__ = [
    "build_image_encoder",
    "encode_images",
    "feature_shape",
    "feature_shape_of",
    "image_encoder_class",
    "load_image_encoder",
    "take_image_inputs",
]
