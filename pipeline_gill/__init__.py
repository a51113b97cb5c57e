"""GILL as a diffusers pipeline, and the sets of pictures that it retrieves from."""

from .pipeline_gill import GillPipeline
from .pipeline_output_gill import GillPicture, GillPipelineOutput
from .retrieval_set_gill import RetrievalSet

__all__ = ["GillPicture", "GillPipeline", "GillPipelineOutput", "RetrievalSet"]
