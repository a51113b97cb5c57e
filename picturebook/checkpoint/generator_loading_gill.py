"""Load the image generator of a GILL repository, a whole pipeline of diffusers, and know what of it was changed."""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ModelMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub.errors import EntryNotFoundError
from transformers import PreTrainedTokenizerBase

from .conditioning_gill import NEGATIVES_FILE, read_negatives

from .load_options_gill import (
    DTYPE,
    GENERATOR_COMPONENTS,
    PLACEMENT_OPTIONS,
    TEXT_PREFIXES,
    LoadOptions,
    download_more,
    load_variant,
    read_json,
)

_LOADED_STATE, _LEFT_OUT, _NEGATIVES = "_gill_loaded_state", "_gill_text_left_out", "_gill_negatives"
_VALUES_COMPARED = 16
GENERATOR_FOLDER = "image_generator"
# What a repository must at least hold to be named as an image generator.
_LEAST: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}
# Generators that read the dtype of their text encoder even when a call gives the embeddings.
TEXT_ENCODER_READERS = ("StableCascadePriorPipeline", "StableCascadeCombinedPipeline")


@dataclass(frozen=True)
class TextLeftOut:
    """Text encoders and tokenizers that an image generator was loaded without, since its negatives are stored.

    Args:
        names (`tuple[str, ...]`): The components.
        load (`Callable[[Any], dict[str, Any]]`): Loads them, for the generator that has the other components.
    """

    names: tuple[str, ...]
    load: Callable[[Any], dict[str, Any]]


def text_left_out(generator: Any) -> TextLeftOut | None:
    """What an image generator was loaded without, see [`TextLeftOut`]."""
    return None if generator is None else vars(generator).get(_LEFT_OUT)


def load_text_encoders(generator: Any) -> None:
    """Load the text encoders that an image generator was loaded without, if it was.

    Raises:
        OSError: they cannot be loaded.
    """
    left_out = text_left_out(generator)
    if left_out is None:
        return
    parts = left_out.load(generator)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.to(generator._execution_device)
    replace_components(generator, parts)
    del vars(generator)[_LEFT_OUT]


def replace_components(generator: Any, components: Mapping[str, Any]) -> None:
    """Set components of a generator in place, and the attributes that follow from them, `vae_scale_factor` for one."""
    type(generator).__init__(generator, **{**generator.components, **components}, **generator.parameters)


def stored_negatives(generator: Any) -> dict[str, torch.Tensor] | None:
    """What the repository that an image generator was loaded from stores of what it guides away from."""
    return None if generator is None else vars(generator).get(_NEGATIVES)


def load_image_generator(folder: str, options: LoadOptions) -> Any:
    """The image generator of a repository, a whole pipeline of diffusers; `None` for a model that only retrieves.

    It is in the folder `image_generator`, or in the repository that `config.json` names. Components that
    `model_index.json` names are in the repository; if those are all of Stable Diffusion's, it needs no other.

    Raises:
        OSError: it cannot be found or read.
        ValueError: options that it cannot be loaded with.
    """
    config, index = read_json(folder, "config.json"), read_json(folder, "model_index.json")
    inside = os.path.join(folder, GENERATOR_FOLDER)
    in_parts = all(name in index for name in GENERATOR_COMPONENTS)
    is_here = os.path.isdir(inside)
    unet = options.components.get("unet", index.get("unet", (None,))[0])
    if not is_here and ((in_parts and unet is None) or config.get("mapper_type", "") is None):
        return None
    negatives = read_negatives(folder)
    if negatives is None:  # some generators have none to store, which is known as well
        negatives = _negatives_of_snapshot(folder, options)
    if in_parts and not is_here:
        generator = _assemble(folder, index, config, options, without_text=negatives is not None)
    else:
        source = inside if is_here else config.get("image_generator_id")
        if source is None:
            raise OSError(f"'config.json' in {folder!r} names no `image_generator_id` to load an image generator from.")
        hub = {} if is_here else {"revision": config.get("image_generator_revision"), **options.hub}
        try:
            parts = {} if is_here else _parts(folder, index, config, options)
            generator = _load_pipeline(source, config, options, hub, parts, without_text=negatives is not None)
        except OSError as error:
            if is_here:
                raise
            raise OSError(
                f"The image generator {source!r} (revision {hub['revision'] or 'main'}), named by "
                f"`image_generator_id`, could not be loaded: {error}\nSet `image_generator_id` in 'config.json' to "
                "where it is, or pass a loaded one as `image_generator=`."
            ) from error
        if not is_here:
            for name, component in generator.components.items():
                if name not in {**parts, **options.components} and hasattr(component, "__dict__"):
                    component.__dict__[_LOADED_STATE] = _state(component)
    vars(generator)[_NEGATIVES] = negatives
    return generator


def _load_pipeline(
    source: str,
    config: dict[str, Any],
    options: LoadOptions,
    hub: dict[str, Any],
    parts: Mapping[str, Any],
    without_text: bool,
) -> Any:
    hub = {name: value for name, value in hub.items() if value is not None}
    try:
        entries = DiffusionPipeline.load_config(source, **hub)
    except OSError as error:
        try:
            return _load_least(source, config, options, hub, parts)
        except (OSError, KeyError):
            raise error from None
    class_name = entries["_class_name"]
    unknown = [name for name, part in options.components.items() if name not in entries and part is not None]
    if unknown:
        names = [name for name, entry in entries.items() if isinstance(entry, list) and name != "_class_name"]
        raise ValueError(f"The image generator, a {class_name}, has no component {unknown[0]!r}, only {names}.")
    given = {name: part for name, part in options.components.items() if name in entries}
    text = [name for name in entries if name.startswith(TEXT_PREFIXES) and name not in given]
    # diffusers loads a pipeline that was saved without them only where it is told that they are not to come.
    missing = [name for name in text if isinstance(entries[name], (list, tuple)) and entries[name][0] is None]
    left_out: list[str] = []
    if without_text and class_name not in TEXT_ENCODER_READERS:
        left_out = [name for name in text if name not in missing]
    # The pipeline of a model draws what the model wants, as it always has.
    no_checker: dict[str, Any] = {}
    if "safety_checker" in entries and "safety_checker" not in given:
        no_checker = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    loading = _loading_options(config, options, entries)
    generator = load_variant(
        DiffusionPipeline,
        source,
        options,
        **hub,
        **{"use_safetensors": True, **loading},
        **{**dict.fromkeys([*left_out, *missing]), **no_checker, **parts, **given},
    )
    if left_out:
        unplaced = {name: value for name, value in loading.items() if name not in PLACEMENT_OPTIONS}
        vars(generator)[_LEFT_OUT] = TextLeftOut(
            tuple(left_out), partial(_load_left_out, tuple(left_out), source, hub, unplaced)
        )
    return generator


def _load_least(
    source: str,
    config: dict[str, Any],
    options: LoadOptions,
    hub: dict[str, Any],
    parts: Mapping[str, Any],
) -> StableDiffusionPipeline:
    """A generator of which the repository of the model has all components but some of [`_LEAST`], which are folders
    of another without `model_index.json`.

    Raises:
        KeyError: other components are lacking. OSError: one cannot be loaded.
    """
    given = {**parts, **{name: part for name, part in options.components.items() if name in GENERATOR_COMPONENTS}}
    loading = _loading_options(config, options, GENERATOR_COMPONENTS)
    classes = {name: _LEAST[name] for name in GENERATOR_COMPONENTS if name not in given}
    found = {
        name: _load_part(component_class, name, source, options, loading, subfolder=name, **hub)
        for name, component_class in classes.items()
    }
    return StableDiffusionPipeline(
        **{**given, **found}, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def _load_left_out(
    names: tuple[str, ...], source: str, hub: dict[str, Any], loading: dict[str, Any], generator: Any
) -> dict[str, Any]:
    others = {name: part for name, part in generator.components.items() if name not in names}
    whole = DiffusionPipeline.from_pretrained(source, **hub, **loading, **others)
    found = {name: getattr(whole, name) for name in names}
    for component in found.values():
        if hasattr(component, "__dict__"):
            component.__dict__[_LOADED_STATE] = _state(component)
    return found


def _assemble(
    folder: str, index: dict[str, Any], config: dict[str, Any], options: LoadOptions, without_text: bool
) -> StableDiffusionPipeline:
    """A generator whose components lie in the root of the repository, as those of older repositories do."""
    if options.loading.get("device_map") == "balanced":
        raise ValueError(
            "`device_map='balanced'` needs an image generator in one folder. In this repository its components are "
            "folders of their own: load the pipeline without, and save it again with `self_contained=True`."
        )
    unknown = [name for name, part in options.components.items() if part and name not in GENERATOR_COMPONENTS]
    if unknown:
        raise ValueError(
            f"The image generator, a StableDiffusionPipeline, has no component {unknown[0]!r}, only "
            f"{list(GENERATOR_COMPONENTS)}."
        )
    text = [name for name in GENERATOR_COMPONENTS if name.startswith(TEXT_PREFIXES) and name not in options.components]
    left_out = [name for name in text if without_text and index[name][0] is not None]
    parts = _parts(folder, {**index, **dict.fromkeys(left_out, (None, None))}, config, options)
    given = {name: part for name, part in options.components.items() if name in GENERATOR_COMPONENTS}
    generator = StableDiffusionPipeline(
        **{**parts, **given}, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    if left_out:
        entries = {name: index[name] for name in left_out}
        vars(generator)[_LEFT_OUT] = TextLeftOut(
            tuple(left_out), partial(_left_out_parts, folder, entries, config, options)
        )
    return generator


def _left_out_parts(
    folder: str, entries: dict[str, Any], config: dict[str, Any], options: LoadOptions, generator: Any
) -> dict[str, Any]:
    return _parts(folder, entries, config, options)


def _parts(folder: str, index: dict[str, Any], config: dict[str, Any], options: LoadOptions) -> dict[str, Any]:
    """Components that the repository has folders of, or is without."""
    loading = _loading_options(config, options, GENERATOR_COMPONENTS)
    return {
        name: None
        if index[name][0] is None
        else _load_part(_class_in(index, name), name, os.path.join(folder, name), options, loading)
        for name in GENERATOR_COMPONENTS
        if name in index and name not in options.components
    }


def _load_part(
    component_class: Any, name: str, source: str, options: LoadOptions, loading: Mapping[str, Any], **where: Any
) -> Any:
    kwargs = dict[str, Any]()
    if issubclass(component_class, torch.nn.Module):
        others = {key: value for key, value in loading.items() if key not in ("quantization_config", DTYPE)}
        quantization, dtype = loading.get("quantization_config"), loading.get(DTYPE)
        own = dtype.get(name, dtype.get("default")) if isinstance(dtype, dict) else dtype
        of_diffusers = issubclass(component_class, ModelMixin)
        quantized = quantization and quantization._resolve_quant_config(of_diffusers, name)
        kwargs = {"use_safetensors": True, **others, DTYPE if of_diffusers else "dtype": own}
        kwargs |= {"quantization_config": quantized} if quantized else {}
    return load_variant(component_class, source, options, **where, **kwargs)


def _loading_options(config: dict[str, Any], options: LoadOptions, components: Collection[str]) -> dict[str, Any]:
    """Of the arguments of `from_pretrained` those about loading, as an image generator of these components takes them.

    Raises:
        ValueError: quantization of a component that there is not.
    """
    loading = dict(options.loading)
    # By default all components have the dtype that the model was saved in.
    dtype = loading.pop(DTYPE, None) or getattr(torch, str(config.get("dtype")), None)
    quantization = quantization_of(loading.pop("quantization_config", None), {*components} - {"model"})
    of_all = options.loading.get("quantization_config")
    named = {*(getattr(of_all, "quant_mapping", None) or getattr(of_all, "components_to_quantize", None) or ())}
    unknown = sorted(named - {*components} - {"model"})
    if unknown:
        raise ValueError(
            f"`quantization_config` names {unknown[0]!r}, which is neither the 'model' nor a component of the image "
            f"generator; these are {sorted(name for name in components if not name.startswith('_'))}."
        )
    found = {DTYPE: dtype, "quantization_config": quantization}
    return {**loading, **{name: value for name, value in found.items() if value is not None}}


def quantization_of(config: Any, names: Collection[str]) -> Any:
    """The part of a [`~diffusers.PipelineQuantizationConfig`] that is about some components; `None` if none is."""
    if config is None:
        return None
    mapping, listed = config.quant_mapping, config.components_to_quantize
    if mapping is not None:
        mapping = {name: own for name, own in mapping.items() if name in names}
        return type(config)(quant_mapping=mapping) if mapping else None
    if listed is not None:
        listed = [name for name in listed if name in names]
        if not listed:
            return None
    return type(config)(
        quant_backend=config.quant_backend, quant_kwargs=config.quant_kwargs, components_to_quantize=listed
    )


def _class_in(index: dict[str, Any], name: str) -> Any:
    """The class that a `model_index.json` names for a component, one of diffusers or transformers."""
    library, class_name = index[name]
    found = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
    if found is None:
        raise OSError(f"'model_index.json' names {library}.{class_name} for {name!r}, which does not exist.")
    return found


def _negatives_of_snapshot(folder: str, options: LoadOptions) -> dict[str, torch.Tensor] | None:
    """diffusers downloads the files of components alone, so not these."""
    with contextlib.suppress(EntryNotFoundError):
        snapshot = download_more(folder, options, [NEGATIVES_FILE])
        return None if snapshot is None else read_negatives(snapshot)
    return None


def is_unchanged(component: Any) -> bool:
    """Whether a component is as it was loaded from the image generator's repository: weights, settings, vocabulary.

    Of the weights, some values of each tensor are compared. A change of dtype alone is none.
    """
    loaded = component.__dict__.get(_LOADED_STATE)
    if loaded is None:
        return False
    now = _state(component)
    return (
        now.settings == loaded.settings
        and now.weights.keys() == loaded.weights.keys()
        and all(_same_values(now.weights[name], values) for name, values in loaded.weights.items())
    )


class _State(NamedTuple):
    settings: dict[str, Any]
    weights: dict[str, torch.Tensor]


def _state(component: Any) -> _State:
    settings = dict(component.config) if hasattr(component, "register_to_config") else {}
    settings.pop("_name_or_path", None)
    if isinstance(component, PreTrainedTokenizerBase):
        settings["length"] = len(component)
    weights = {}
    if isinstance(component, torch.nn.Module):
        for name, weight in component.state_dict().items():
            flat = weight.detach().flatten()
            if weight.device.type != "meta":  # offloaded
                weights[name] = flat[:: max(1, flat.numel() // _VALUES_COMPARED)].to("cpu", torch.float32, copy=True)
    return _State(settings, weights)


def _same_values(values: torch.Tensor, loaded: torch.Tensor) -> bool:
    return values.shape == loaded.shape and any(
        torch.equal(values.to(dtype), loaded.to(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16)
    )


__all__ = [
    "GENERATOR_FOLDER",
    "TEXT_ENCODER_READERS",
    "TextLeftOut",
    "is_unchanged",
    "load_image_generator",
    "load_text_encoders",
    "quantization_of",
    "replace_components",
    "stored_negatives",
    "text_left_out",
]
