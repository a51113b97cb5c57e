"""GILL for the Hugging Face Hub: models, pipeline, training, evaluation and conversion from one import.

`import gill` is cheap: a name is imported from its package the first time it is used.

    >>> import gill
    >>> pipe = gill.GillPipeline.from_pretrained("picturebook/checkpoint")  # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PACKAGE_OF = {
    "GillConfig": "modeling_gill",
    "GillForConditionalGeneration": "modeling_gill",
    "GillProcessor": "modeling_gill",
    "GillImage": "pipeline_gill",
    "GillPipeline": "pipeline_gill",
    "GillPipelineOutput": "pipeline_gill",
    "RetrievalSet": "pipeline_gill",
    "build_retrieval_set": "pipeline_gill",
    "convert": "conversion",
    "evaluate": "evaluation_gill",
    "push": "hub_card",
    "write_card": "hub_card",
    "demo": "picturebook",
    "DecisionHeadOptions": "training_gill",
    "PrecomputeArguments": "training_gill",
    "precompute": "training_gill",
    "read_recipe": "training_gill",
    "train": "training_gill",
    "train_decision_head": "training_gill",
}

if TYPE_CHECKING:
    from conversion import convert
    from evaluation_gill import evaluate
    from hub_card import push, write_card
    from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
    from picturebook import demo
    from pipeline_gill import GillImage, GillPipeline, GillPipelineOutput, RetrievalSet, build_retrieval_set
    from training_gill import (
        DecisionHeadOptions,
        PrecomputeArguments,
        precompute,
        read_recipe,
        train,
        train_decision_head,
    )


def __getattr__(name: str) -> Any:
    if name not in _PACKAGE_OF:
        raise AttributeError(f"module 'gill' has no attribute {name!r}")
    from gill.quiet import quiet_imports

    quiet_imports()
    value = getattr(import_module(_PACKAGE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PACKAGE_OF})


__all__ = [
    "DecisionHeadOptions",
    "GillConfig",
    "GillForConditionalGeneration",
    "GillImage",
    "GillPipeline",
    "GillPipelineOutput",
    "GillProcessor",
    "PrecomputeArguments",
    "RetrievalSet",
    "__version__",
    "build_retrieval_set",
    "convert",
    "demo",
    "evaluate",
    "precompute",
    "push",
    "read_recipe",
    "train",
    "train_decision_head",
    "write_card",
]
