"""Load the components of a GILL pipeline, from its own repository or from the one that it names, through diffusers.

diffusers loads every component by a class that the pipeline names, and gives it a folder of the GILL repository. The
classes here return the component of that folder, or else of the repository which `config.json` names; what they return
is of the ordinary class. diffusers looks up the base classes that it knows in this module: they are imported by name.
"""

import os
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel, ProcessorMixin

from .modeling_gill import GillForConditionalGeneration
from .processing_gill import GillProcessor

from .generator_loading_gill import GENERATOR_FOLDER, load_image_generator
from .load_options_gill import PLACEMENT_OPTIONS, current_options, download_more, load_variant, read_json


class RepositoryGenerator(DiffusionPipeline):
    """The image generator of the GILL repository, or of the one that it names."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:  # type: ignore[override]
        inside = os.path.basename(folder) == GENERATOR_FOLDER
        return load_image_generator(os.path.dirname(folder) if inside else folder, current_options())


class RepositoryModel(GillForConditionalGeneration):
    """The model in the root of the GILL repository, with its backbones."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:  # type: ignore[override]
        options = current_options()
        lora = read_json(folder, "config.json").get("language_model_lora")
        if lora and not os.path.isdir(os.path.join(folder, lora)):
            # diffusers downloads the folders of components alone.
            download_more(folder, options, [f"{lora}/*"])
        kwargs = {key: value for key, value in kwargs.items() if value is not None and key != "variant"}
        if options.loading.get("device_map") == "balanced":
            kwargs |= {name: options.loading[name] for name in PLACEMENT_OPTIONS if name in options.loading}
        return load_variant(GillForConditionalGeneration, folder, options, **options.hub, **kwargs)


class RepositoryProcessor(GillProcessor):
    """The processor in the root of the GILL repository."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> Any:
        # Code that came from the repository has been trusted already; else the tokenizer would ask again.
        return GillProcessor.from_pretrained(folder, trust_remote_code=__name__.startswith("diffusers_modules"))


# The class that loads each component.
COMPONENT_CLASSES = {
    "model": "RepositoryModel",
    "processor": "RepositoryProcessor",
    "image_generator": "RepositoryGenerator",
}

__all__ = [
    "COMPONENT_CLASSES",
    "DiffusionPipeline",
    "GillForConditionalGeneration",
    "ModelMixin",
    "PreTrainedModel",
    "ProcessorMixin",
    "SchedulerMixin",
]
