"""Load the components of a GILL pipeline, from its own repository or from the one that it names, through diffusers.

diffusers loads every component by a class that `model_index.json` or the pipeline names, and gives it a folder of the
GILL repository. The classes here return the component of that folder, or else of the image generator's repository,
which `config.json` names; what they return is of the ordinary class. diffusers looks up the base classes that it knows
in this module, so they are imported by name.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ModelMixin,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import snapshot_download
from transformers import (
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from modeling_gill.modeling_gill import GillForConditionalGeneration
from modeling_gill.processing_gill import GillProcessor

# Arguments of `from_pretrained` that hold for every repository that is loaded.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
_LOADED_STATE = "_gill_loaded_state"
_VALUES_COMPARED = 16
GENERATOR_FOLDER = "image_generator"
TEXT_PREFIXES = ("text_encoder", "tokenizer")
GENERATOR_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
# Generators that read the dtype of their text encoder even when a call gives the embeddings.
TEXT_ENCODER_READERS = ("StableCascadePriorPipeline", "StableCascadeCombinedPipeline")


def read_json(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of a repository.

    Raises:
        OSError: the file is missing or no JSON, naming it.
    """
    path = os.path.join(folder, name)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise OSError(f"{path!r} cannot be read: {error}. Is {folder!r} a GILL repository?") from error


@dataclass
class LoadOptions:
    """Arguments of the pipeline's `from_pretrained` that diffusers does not hand to the components.

    Args:
        hub (`dict[str, Any]`): Those of [`HUB_OPTIONS`] that were given.
        variant (`str`, *optional*): Variant of the weights, used wherever it exists.
        variant_found (`bool`, defaults to `False`): Whether a component had weights of the variant.
    """

    hub: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None
    variant_found: bool = False


_load_options: ContextVar[LoadOptions | None] = ContextVar("gill_load_options", default=None)


@contextmanager
def load_options(options: LoadOptions) -> Iterator[None]:
    """Options of the components that are loaded within."""
    token = _load_options.set(options)
    try:
        yield
    finally:
        _load_options.reset(token)


def _current_options() -> LoadOptions:
    """The options of [`load_options`], or of the `DiffusionPipeline.from_pretrained` that is running.

    That one calls no method of a pipeline from remote code before it loads the components, nor tells them its
    arguments. They are read from its frame.
    """
    options = _load_options.get()
    frame = None if options is not None else sys._getframe()
    while frame is not None:
        if (
            frame.f_code.co_name == "from_pretrained"
            and frame.f_globals.get("__name__") == DiffusionPipeline.__module__
        ):
            given = {name: frame.f_locals.get(name) for name in HUB_OPTIONS}
            hub = {name: value for name, value in given.items() if value}
            options = LoadOptions(hub, frame.f_locals.get("variant"))
            break
        frame = frame.f_back
    return options or LoadOptions()


def _load(component_class: Any, source: str, options: LoadOptions, **kwargs: Any) -> Any:
    """A component in the variant of the options where its repository has that, else in the plain one."""
    folder = os.path.join(source, kwargs.get("subfolder", ""))
    tried = not os.path.isdir(folder) or any(f".{options.variant}" in name for name in os.listdir(folder))
    if options.variant is not None and tried and issubclass(component_class, torch.nn.Module):
        try:
            component = component_class.from_pretrained(source, variant=options.variant, **kwargs)
        except OSError:
            pass
        else:
            options.variant_found = True
            return component
    return component_class.from_pretrained(source, **kwargs)


def load_whole_generator(folder: str, options: LoadOptions, without_text: bool = False, **kwargs: Any) -> Any:
    """The image generator of a repository if it is no [`StableDiffusionPipeline`], which is loaded by components.

    Args:
        folder (`str`): The repository.
        options ([`LoadOptions`]): Those of the pipeline.
        without_text (`bool`, defaults to `False`): Load no text encoders and tokenizers.
        kwargs: Those of [`DiffusionPipeline.from_pretrained`], of which a generator gets the ones about loading.
    """
    inside = os.path.join(folder, GENERATOR_FOLDER)
    config = read_json(folder, "config.json")
    index = read_json(folder, "model_index.json")
    source: Any = inside if os.path.isdir(inside) else config.get("image_generator_id")
    in_parts = config.get("mapper_type", "") is None or any(name in index for name in GENERATOR_COMPONENTS)
    if source is None or (source != inside and in_parts):
        return None
    revision = None if source == inside else config.get("image_generator_revision")
    hub = {"revision": revision, **options.hub}
    try:
        entries = DiffusionPipeline.load_config(source, **hub)
    except OSError:
        return None  # the components say what is missing, and from where
    if entries["_class_name"] == StableDiffusionPipeline.__name__ and source != inside:
        return None
    without_text = without_text and entries["_class_name"] not in TEXT_ENCODER_READERS
    absent = [name for name in entries if without_text and name.startswith(TEXT_PREFIXES)]
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype")) or getattr(torch, str(config.get("dtype")), None)
    names = ("device_map", "max_memory", "quantization_config", "use_safetensors", "low_cpu_mem_usage")
    shared = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    generator = DiffusionPipeline.from_pretrained(
        source, dtype=dtype, **dict.fromkeys(absent), **shared, **{k: v for k, v in hub.items() if v is not None}
    )
    if source != inside:
        for component in generator.components.values():
            if hasattr(component, "__dict__"):
                component.__dict__[_LOADED_STATE] = _state(component)
    return generator


class _Component:
    """Loads one component of the image generator."""

    name = ""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:
        """The component in `folder`, or if that is the root of the repository, in the image generator's repository."""
        options = _current_options()
        inside = not os.path.isfile(os.path.join(folder, "model_index.json"))
        root = os.path.dirname(folder) if inside else folder
        config = read_json(root, "config.json")
        kwargs = {key: value for key, value in kwargs.items() if value is not None and key != "variant"}
        if issubclass(cls, torch.nn.Module):
            # By default all components have the dtype that the model was saved in.
            name = "dtype" if issubclass(cls, PreTrainedModel) else "torch_dtype"
            dtype = getattr(torch, str(config.get("dtype")), None)
            kwargs = {"use_safetensors": True, **({} if dtype is None else {name: dtype}), **kwargs}
        if inside:
            return _load(_class_in(read_json(root, "model_index.json"), cls.name), folder, options, **kwargs)
        source, revision = config.get("image_generator_id"), config.get("image_generator_revision")
        if source is None:
            raise OSError(f"'config.json' in {root!r} names no `image_generator_id` to load {cls.name!r} from.")
        hub = {"revision": revision, **options.hub}
        try:
            component_class = cls._class_of(source, hub)
            component = _load(component_class, source, options, subfolder=cls.name, **hub, **kwargs)
        except OSError as error:
            raise OSError(
                f"The {cls.name!r} of the image generator {source!r} (revision {revision or 'main'}), named by "
                f"`image_generator_id`, could not be loaded: {error}\nSet `image_generator_id` in 'config.json' to "
                f"where it is, or pass a loaded one as `{cls.name}=`."
            ) from error
        component.__dict__[_LOADED_STATE] = _state(component)
        return component

    @classmethod
    def _class_of(cls, source: str, hub: dict[str, Any]) -> Any:
        return cls.__mro__[2]


def _class_in(index: dict[str, Any], name: str) -> Any:
    """The class that a `model_index.json` names for a component, one of diffusers or transformers."""
    library, class_name = index[name]
    found = getattr({"diffusers": diffusers, "transformers": transformers}.get(library), class_name, None)
    if found is None:
        raise OSError(f"'model_index.json' names {library}.{class_name} for {name!r}, which does not exist.")
    return found


class GeneratorVae(_Component, AutoencoderKL):
    """The generator's autoencoder."""

    name = "vae"


class GeneratorTextEncoder(_Component, CLIPTextModel):
    """The generator's text encoder, used for its empty or negative prompt alone."""

    name = "text_encoder"


class GeneratorTokenizer(_Component, PreTrainedTokenizerFast):
    """The generator's tokenizer."""

    name = "tokenizer"

    @classmethod
    def _class_of(cls, source: str, hub: dict[str, Any]) -> Any:
        # Stable Diffusion ships the files of a slow tokenizer, others only `tokenizer.json`.
        return _class_in(DiffusionPipeline.load_config(source, **hub), cls.name)


class GeneratorUnet(_Component, UNet2DConditionModel):
    """The generator's UNet."""

    name = "unet"


class GeneratorScheduler(_Component, SchedulerMixin):
    """The generator's scheduler, of the class that its own `model_index.json` names."""

    name = "scheduler"

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:
        scheduler = super().from_pretrained(folder, **kwargs)
        if _LOADED_STATE in scheduler.__dict__:
            # Stable Diffusion corrects settings of old schedulers when it is assembled; that is no change by the user.
            parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "unet", "safety_checker", "feature_extractor"))
            StableDiffusionPipeline(**parts, scheduler=scheduler, requires_safety_checker=False)
            scheduler.__dict__[_LOADED_STATE] = _state(scheduler)
        return scheduler

    @classmethod
    def _class_of(cls, source: str, hub: dict[str, Any]) -> Any:
        return _class_in(DiffusionPipeline.load_config(source, **hub), cls.name)


class RepositoryModel(GillForConditionalGeneration):
    """The model in the root of the GILL repository, with its backbones."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:  # type: ignore[override]
        options = _current_options()
        lora = read_json(folder, "config.json").get("language_model_lora")
        snapshot = Path(folder)
        if lora and snapshot.parent.name == "snapshots" and not (snapshot / lora).is_dir():
            # diffusers downloads the folders of components alone.
            repository = snapshot.parent.parent
            snapshot_download(
                repository.name.removeprefix("models--").replace("--", "/", 1),
                revision=snapshot.name,
                allow_patterns=[f"{lora}/*"],
                **{**options.hub, "cache_dir": repository.parent},
            )
        kwargs = {key: value for key, value in kwargs.items() if value is not None and key != "variant"}
        return _load(GillForConditionalGeneration, folder, options, **options.hub, **kwargs)


class RepositoryProcessor(GillProcessor):
    """The processor in the root of the GILL repository."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:
        # Code that came from the repository has been trusted already; else the tokenizer would ask again.
        return GillProcessor.from_pretrained(folder, trust_remote_code=__name__.startswith("diffusers_modules"))


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


# The class that loads each component.
COMPONENT_CLASSES = {
    "model": "RepositoryModel",
    "processor": "RepositoryProcessor",
    "vae": "GeneratorVae",
    "text_encoder": "GeneratorTextEncoder",
    "tokenizer": "GeneratorTokenizer",
    "unet": "GeneratorUnet",
    "scheduler": "GeneratorScheduler",
}

__all__ = [
    "COMPONENT_CLASSES",
    "GENERATOR_COMPONENTS",
    "GENERATOR_FOLDER",
    "HUB_OPTIONS",
    "TEXT_ENCODER_READERS",
    "TEXT_PREFIXES",
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "GillForConditionalGeneration",
    "LoadOptions",
    "ModelMixin",
    "PreTrainedModel",
    "ProcessorMixin",
    "SchedulerMixin",
    "UNet2DConditionModel",
    "is_unchanged",
    "load_options",
    "load_whole_generator",
    "read_json",
]
