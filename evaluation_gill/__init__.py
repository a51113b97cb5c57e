"""Evaluation of GILL and of baselines under the same protocols: metrics, tasks and tables of results."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .arguments import (
        CaptionToImageOptions,
        InterleavedOptions,
        PartiPromptsOptions,
        VisdialOptions,
        VistOptions,
    )
    from .results import MetricValue, Results
    from .tasks import evaluate

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".arguments": [
            "CaptionToImageOptions",
            "InterleavedOptions",
            "PartiPromptsOptions",
            "VisdialOptions",
            "VistOptions",
        ],
        ".results": ["MetricValue", "Results"],
        ".tasks": ["evaluate"],
    },
)

__all__ = [
    "CaptionToImageOptions",
    "InterleavedOptions",
    "MetricValue",
    "PartiPromptsOptions",
    "Results",
    "VisdialOptions",
    "VistOptions",
    "evaluate",
]
