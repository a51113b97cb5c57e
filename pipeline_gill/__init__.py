"""GILL as a diffusers pipeline, and the sets of images that it retrieves from."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import RetrievalSetOptions
    from .pipeline_gill import GillPipeline
    from .pipeline_output_gill import GillImage, GillPipelineOutput
    from .retrieval_set_gill import RetrievalSet
    from .retrieval_sources import build_retrieval_set

_MODULES = {
    "GillImage": "pipeline_output_gill",
    "GillPipeline": "pipeline_gill",
    "GillPipelineOutput": "pipeline_output_gill",
    "RetrievalSet": "retrieval_set_gill",
    "RetrievalSetOptions": "arguments",
    "build_retrieval_set": "retrieval_sources",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


__all__ = [
    "GillImage",
    "GillPipeline",
    "GillPipelineOutput",
    "RetrievalSet",
    "RetrievalSetOptions",
    "build_retrieval_set",
]
