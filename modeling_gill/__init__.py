"""GILL as a transformers model: configuration, processor, model; without diffusers and retrieval."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .configuration_gill import GillConfig
from .modeling_gill import GillForConditionalGeneration
from .outputs_gill import GillGenerateOutput, GillOutput
from .pretrained_gill import GillPreTrainedModel
from .processing_gill import GillProcessor

# With these, every Auto class loads a GILL repository without running code from it.
AutoConfig.register("gill", GillConfig)
AutoModel.register(GillConfig, GillForConditionalGeneration)
AutoModelForImageTextToText.register(GillConfig, GillForConditionalGeneration)
AutoModelForMultimodalLM.register(GillConfig, GillForConditionalGeneration)
AutoProcessor.register(GillConfig, GillProcessor)

__all__ = [
    "GillConfig",
    "GillForConditionalGeneration",
    "GillGenerateOutput",
    "GillOutput",
    "GillPreTrainedModel",
    "GillProcessor",
]
