"""Components of a GILL pipeline that live in another repository, in a form that diffusers loads by itself.

diffusers loads every component from a class that `model_index.json` or the pipeline names, and hands it the folder of
the GILL repository. The classes here answer with the component from the image generator's repository, which
`config.json` in that folder names; what they return is of the ordinary class. diffusers looks the bases it knows up
in this module, so they are imported by name.
"""

import json
import os
from typing import Any, NamedTuple

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, ModelMixin, SchedulerMixin, UNet2DConditionModel
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

_LOADED_STATE = "_gill_loaded_state"
_VALUES_COMPARED = 16
GENERATOR_COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


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


class _FromGenerator:
    """Loads a component from the repository that `image_generator_id` in `config.json` names."""

    subfolder = ""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:
        config = read_json(folder, "config.json")
        name, revision = config.get("image_generator_id"), config.get("image_generator_revision")
        if name is None:
            raise OSError(f"'config.json' in {folder!r} names no `image_generator_id` to load {cls.subfolder!r} from.")
        options = {key: value for key, value in kwargs.items() if value is not None}
        try:
            component = cls._component_class(name, revision).from_pretrained(
                name, subfolder=cls.subfolder, revision=revision, **options
            )
        except OSError as error:
            raise OSError(
                f"The {cls.subfolder!r} of the image generator {name!r} (revision {revision or 'main'}), named by "
                f"`image_generator_id`, could not be loaded: {error}\nSet `image_generator_id` in 'config.json' to "
                f"where it is, or pass a loaded one as `{cls.subfolder}=`."
            ) from error
        component.__dict__[_LOADED_STATE] = _state(component)
        return component

    @classmethod
    def _component_class(cls, name: str, revision: str | None) -> Any:
        return cls.__mro__[2]


class GeneratorVae(_FromGenerator, AutoencoderKL):
    """The generator's autoencoder."""

    subfolder = "vae"


class GeneratorTextEncoder(_FromGenerator, CLIPTextModel):
    """The generator's text encoder, here only for its empty or negative prompt."""

    subfolder = "text_encoder"


class GeneratorTokenizer(_FromGenerator, PreTrainedTokenizerFast):
    """The generator's tokenizer."""

    subfolder = "tokenizer"

    @classmethod
    def _component_class(cls, name: str, revision: str | None) -> Any:
        # Stable Diffusion ships the files of a slow tokenizer, others only `tokenizer.json`.
        return getattr(transformers, _generator_index(name, revision)["tokenizer"][1])


class GeneratorUnet(_FromGenerator, UNet2DConditionModel):
    """The generator's UNet."""

    subfolder = "unet"


class GeneratorScheduler(_FromGenerator, SchedulerMixin):
    """The generator's scheduler, of whichever class its own `model_index.json` names."""

    subfolder = "scheduler"

    @classmethod
    def _component_class(cls, name: str, revision: str | None) -> Any:
        return getattr(diffusers, _generator_index(name, revision)["scheduler"][1])


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


def _generator_index(name: str, revision: str | None) -> dict[str, Any]:
    return dict(diffusers.DiffusionPipeline.load_config(name, revision=revision))


# What the pipeline loads where `model_index.json` says nothing else.
COMPONENT_CLASSES = {
    "model": "GillForConditionalGeneration",
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
    "AutoencoderKL",
    "CLIPTextModel",
    "CLIPTokenizer",
    "GillForConditionalGeneration",
    "ModelMixin",
    "PreTrainedModel",
    "ProcessorMixin",
    "SchedulerMixin",
    "UNet2DConditionModel",
    "is_unchanged",
    "read_json",
]
