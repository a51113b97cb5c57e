"""Training of GILL's adapters and of its decision head; names are imported the first time they are used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments, DecisionHeadOptions, LossArguments, ModelArguments, PrecomputeArguments

if TYPE_CHECKING:
    from .decision_head import train_decision_head
    from .precomputation import precompute
    from .recipe import Recipe, read_recipe
    from .sizes import RecipeSizes, recipe_sizes
    from .trainer import GillTrainer
    from .training import train

_MODULE_OF = {
    "GillTrainer": "trainer",
    "Recipe": "recipe",
    "RecipeSizes": "sizes",
    "precompute": "precomputation",
    "read_recipe": "recipe",
    "recipe_sizes": "sizes",
    "train": "training",
    "train_decision_head": "decision_head",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


__all__ = [
    "DataArguments",
    "DecisionHeadOptions",
    "GillTrainer",
    "LossArguments",
    "ModelArguments",
    "PrecomputeArguments",
    "Recipe",
    "RecipeSizes",
    "precompute",
    "read_recipe",
    "recipe_sizes",
    "train",
    "train_decision_head",
]
