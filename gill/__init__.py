"""GILL for the Hugging Face Hub: models, pipeline, training, evaluation and conversion from one import.

`import gill` is cheap: a name is imported from its package the first time it is used.

    >>> import gill
    >>> pipe = gill.GillPipeline.from_pretrained("picturebook/checkpoint")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from chat_gill import ChatArguments, chat
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

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "modeling_gill": ["GillConfig", "GillForConditionalGeneration", "GillProcessor"],
        "pipeline_gill": ["GillImage", "GillPipeline", "GillPipelineOutput", "RetrievalSet", "build_retrieval_set"],
        "chat_gill": ["ChatArguments", "chat"],
        "conversion": ["convert"],
        "evaluation_gill": ["evaluate"],
        "hub_card": ["push", "write_card"],
        "picturebook": ["demo"],
        "training_gill": [
            "DecisionHeadOptions",
            "PrecomputeArguments",
            "precompute",
            "read_recipe",
            "train",
            "train_decision_head",
        ],
    },
)

__all__ = [
    "ChatArguments",
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
    "chat",
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
