"""GILL as a diffusers pipeline, and the sets of images that it retrieves from."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .arguments import RetrievalSetOptions
    from .pipeline_gill import GillPipeline
    from .pipeline_output_gill import GillImage, GillPipelineOutput
    from .retrieval_set_gill import RetrievalSet
    from .retrieval_sources import build_retrieval_set

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".pipeline_output_gill": ["GillImage", "GillPipelineOutput"],
        ".pipeline_gill": ["GillPipeline"],
        ".retrieval_set_gill": ["RetrievalSet"],
        ".arguments": ["RetrievalSetOptions"],
        ".retrieval_sources": ["build_retrieval_set"],
    },
)

__all__ = [
    "GillImage",
    "GillPipeline",
    "GillPipelineOutput",
    "RetrievalSet",
    "RetrievalSetOptions",
    "build_retrieval_set",
]
