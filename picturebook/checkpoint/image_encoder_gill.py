"""The frozen image encoder: its class, its weights, its preprocessing, and the feature that is made of its output."""

import importlib
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import transformers
from PIL import Image
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoImageProcessor, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

VISION_POOLINGS = ("pooler", "cls", "mean", "image_embeds", "patches")

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
# Switches of image processors that cut an image into several.
_CUTTING = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")


@dataclass(frozen=True)
class ImagePooling:
    """
    Which feature of an image is read, see `vision_pooling` in [`GillConfig`].

    Attributes:
        kind (`str`): One of [`VISION_POOLINGS`].
        layer (`int`): -1 for the encoder's `last_hidden_state`, otherwise an index into its `hidden_states`.
        num_tokens (`int`, *optional*): Number of vectors that the patches are averaged to, by default all patches.
    """

    kind: str = "pooler"
    layer: int = -1
    num_tokens: int | None = None

    def __str__(self) -> str:
        name = f"{self.num_tokens or 'all'} patches" if self.kind == "patches" else self.kind
        return name if self.layer == -1 else f"{name} of layer {self.layer}"


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
        rows, columns = _patch_grid(model.config, pixel_values) or (0, 0)
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
        features = _pool(states, pooling, model, pixel_values, kwargs.get("spatial_shapes"))
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


# --- preprocessing ---------------------------------------------------------------------------------------------------


def load_image_processor(name: Any, **options: Any) -> Any:
    """
    Load the preprocessing of an image encoder. Pillow resizes as the authors' code did; torchvision, where it is
    installed, gives other pixels. What cuts an image into several is switched off.

    Args:
        name (`str` or `os.PathLike`): Hub repository or folder.
        options: Those of `AutoImageProcessor.from_pretrained`.
    """
    options["backend"] = options.get("backend") or "pil"
    image_processor = AutoImageProcessor.from_pretrained(name, **options)
    for switch in _CUTTING:
        if getattr(image_processor, switch, False):
            setattr(image_processor, switch, False)
    return image_processor


def with_pil(image_processor: Any) -> Any:
    """An image processor that uses Pillow, as the one that is loaded from a repository does, in place of one that
    uses torchvision."""
    if getattr(image_processor, "backend", None) != "torchvision":
        return image_processor
    pil_class = getattr(transformers, f"{type(image_processor).__name__}Pil", None)
    return image_processor if pil_class is None else pil_class.from_dict(image_processor.to_dict())


def preprocess_images(image_processor: Any, images: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
    """
    Prepare images for the encoder.

    Args:
        images (`Sequence[PIL.Image.Image]`)
        kwargs: Those of the image processor; `return_tensors` defaults to `"pt"`.

    Returns:
        `dict`: `pixel_values` and whatever else the encoder needs, with one row for each image.

    Raises:
        ValueError: an image processor that cuts an image into several.
    """
    kwargs.setdefault("return_tensors", "pt")
    prepared = dict(image_processor(images=list(images), **kwargs))
    values = prepared["pixel_values"]
    crops = values.shape[1] if getattr(values, "ndim", 0) == 5 else 1
    if len(values) != len(images) or crops != 1:
        raise ValueError(
            f"{type(image_processor).__name__} cuts {len(images)} images into {len(values) * crops}, and an image is "
            "read as one; expected an image processor that does not cut, such as that of the image encoder alone."
        )
    if getattr(values, "ndim", 0) == 5:
        prepared = {
            name: value[:, 0] if getattr(value, "ndim", 0) > 2 and value.shape[1] == 1 else value
            for name, value in prepared.items()
        }
    return prepared


# --- inside ----------------------------------------------------------------------------------------------------------


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
    height, width = _pair(getattr(config, "image_size", None) or 224)
    return {"pixel_values": torch.zeros(2, channels, height, width)}


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[-2], size[-1])


def _patch_grid(config: PretrainedConfig, pixel_values: torch.Tensor) -> tuple[int, int] | None:
    """Rows and columns of the patches that an image is cut into, where the configuration says their size."""
    size = getattr(config, "patch_size", None)
    if not size or pixel_values.dim() != 4:
        return None
    height, width = _pair(size)
    return pixel_values.shape[-2] // height, pixel_values.shape[-1] // width


def _grid_of_states(config: PretrainedConfig, num_states: int, pixel_values: torch.Tensor) -> tuple[int, int] | None:
    """Rows and columns of an encoder's last states; those that are left over come first and are no patches."""
    grid = _patch_grid(config, pixel_values)
    if grid is not None and 0 < math.prod(grid) <= num_states:
        return grid
    # Encoders that merge patches: as many as fill a grid of the image's proportions.
    height, width = pixel_values.shape[-2:]
    for num_patches in range(num_states, max(0, num_states - 2 - getattr(config, "num_register_tokens", 0)), -1):
        rows = max(1, round(math.sqrt(num_patches * height / width)))
        columns = num_patches // rows
        if rows * columns == num_patches and abs(rows * width / height - columns) < 1:
            return rows, columns
    return None


def _pool(
    states: torch.Tensor,
    pooling: ImagePooling,
    model: PreTrainedModel,
    pixel_values: torch.Tensor,
    spatial_shapes: torch.Tensor | None,
) -> torch.Tensor:
    """Make the feature of states of shape `(num_images, num_states, hidden_size)`, or of a feature map."""
    name = type(model).__name__
    if states.dim() == 4:
        # Channels come first, but for the few encoders whose maps are as high as wide and end with another number.
        if states.shape[1] == states.shape[2] != states.shape[3]:
            states = states.permute(0, 3, 1, 2)
        grid: tuple[int, int] | None = (states.shape[2], states.shape[3])
        states = states.flatten(2).transpose(1, 2)
    elif spatial_shapes is not None:
        if pooling.kind == "cls":
            raise ValueError(_no_class_token(name))
        grids = [(int(rows), int(columns)) for rows, columns in spatial_shapes.tolist()]
        pooled = [
            _pool_patches(item[None, : math.prod(grid)], grid, pooling, name)
            for item, grid in zip(states, grids, strict=True)
        ]
        if len({item.shape[1:] for item in pooled}) > 1:
            raise ValueError(
                f"The image encoder {name} gives images of different shapes different numbers of patches; expected "
                "`num_visual_tokens` (with a resampler, `visual_resampler_num_patches`), a number that all are "
                "averaged to."
            )
        return torch.cat(pooled)
    else:
        grid = _grid_of_states(model.config, states.shape[1], pixel_values)
    num_patches = states.shape[1] if grid is None else math.prod(grid)
    if pooling.kind == "cls":
        if num_patches == states.shape[1]:
            raise ValueError(_no_class_token(name))
        return states[:, 0]
    return _pool_patches(states[:, states.shape[1] - num_patches :], grid, pooling, name)


def _packs_images(name: str) -> str:
    return (
        f"The image encoder {name} reads the patches of all images as one sequence, and a batch must have a row for "
        "each image; expected an encoder that takes them so, such as that of SigLIP 2, which also keeps their "
        "proportions (NaFlex)."
    )


def _no_class_token(name: str) -> str:
    return f'The image encoder {name} has no class token; expected another `vision_pooling` than "cls", such as "mean".'


def _pool_patches(
    patches: torch.Tensor, grid: tuple[int, int] | None, pooling: ImagePooling, name: str
) -> torch.Tensor:
    if pooling.kind == "mean":
        return patches.mean(1)
    num_patches, num_tokens = patches.shape[1], pooling.num_tokens
    if num_tokens is None or num_tokens == num_patches:
        return patches
    if num_tokens > num_patches:
        raise ValueError(
            f"`num_visual_tokens` is {num_tokens} (with a resampler, `visual_resampler_num_patches`), but the image "
            f"encoder {name} gives an image {num_patches} patches."
        )
    shape = None if grid is None else _smaller_grid(grid, num_tokens)
    columns = patches.transpose(1, 2)
    if grid is None or shape is None:
        return nn.functional.adaptive_avg_pool1d(columns, num_tokens).transpose(1, 2)
    return nn.functional.adaptive_avg_pool2d(columns.unflatten(2, grid), shape).flatten(2).transpose(1, 2)


def _smaller_grid(grid: tuple[int, int], size: int) -> tuple[int, int] | None:
    """The grid of `size` cells inside of another whose proportions are nearest to it."""
    shapes = [(rows, size // rows) for rows in range(1, size + 1) if size % rows == 0]
    shapes = [shape for shape in shapes if shape[0] <= grid[0] and shape[1] <= grid[1]]
    return min(shapes, key=lambda shape: abs(math.log(shape[0] * grid[1] / (shape[1] * grid[0]))), default=None)


__all__ = [
    "VISION_POOLINGS",
    "ImagePooling",
    "build_image_encoder",
    "encode_images",
    "feature_shape",
    "feature_shape_of",
    "image_encoder_class",
    "load_image_encoder",
    "load_image_processor",
    "preprocess_images",
    "take_image_inputs",
    "with_pil",
]
