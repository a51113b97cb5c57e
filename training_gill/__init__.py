"""Training of GILL's adapters and of its decision head; names are imported the first time they are used."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

from .arguments import DataArguments, DecisionHeadOptions, LossArguments, ModelArguments, PrecomputeArguments

if TYPE_CHECKING:
    from .decision_head import train_decision_head
    from .precomputation import precompute
    from .recipe import Recipe, read_recipe
    from .sizes import RecipeSizes, recipe_sizes
    from .trainer import GillTrainer
    from .training import train

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".trainer": ["GillTrainer"],
        ".recipe": ["Recipe", "read_recipe"],
        ".precomputation": ["precompute"],
        ".sizes": ["RecipeSizes", "recipe_sizes"],
        ".training": ["train"],
        ".decision_head": ["train_decision_head"],
    },
)

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
