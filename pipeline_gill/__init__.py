"""GILL as a diffusers pipeline, and the sets of images that it retrieves from."""

from .pipeline_gill import GillPipeline
from .pipeline_output_gill import GillImage, GillPipelineOutput
from .retrieval_set_gill import RetrievalSet

__all__ = ["GillImage", "GillPipeline", "GillPipelineOutput", "RetrievalSet"]
