"""Evaluation of GILL and of baselines under the same protocols: metrics, tasks and tables of results."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import CaptionToImageOptions, PartiPromptsOptions, VisdialOptions, VistOptions
    from .results import MetricValue, Results
    from .tasks import evaluate

_MODULES = {
    "CaptionToImageOptions": "arguments",
    "MetricValue": "results",
    "PartiPromptsOptions": "arguments",
    "Results": "results",
    "VisdialOptions": "arguments",
    "VistOptions": "arguments",
    "evaluate": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


__all__ = [
    "CaptionToImageOptions",
    "MetricValue",
    "PartiPromptsOptions",
    "Results",
    "VisdialOptions",
    "VistOptions",
    "evaluate",
]
