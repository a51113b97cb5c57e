"""The picture book: a small drawn world whose ground truth is known exactly, and a GILL trained on it from scratch.

Rooms, each of which imports from those before it only:

* `world`: scenes, their drawings, the language about them, splits, and a reader that recognizes scenes in images
* `models`: architectures, tokenizers and losses
* `stages`: training, one stage per model
* `report`: tables, pages and the demo
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import DemoArguments, EmbedArguments, PicturebookTrainArguments, TablesArguments, WorldArguments
    from .checkpoint_folder import embed, find_checkpoint
    from .report.demo import demo
    from .report.tables import write_tables
    from .report.world_report import write_world
    from .stages.training import train

_MODULE_OF = {
    "DemoArguments": "arguments",
    "EmbedArguments": "arguments",
    "PicturebookTrainArguments": "arguments",
    "TablesArguments": "arguments",
    "WorldArguments": "arguments",
    "demo": "report.demo",
    "embed": "checkpoint_folder",
    "find_checkpoint": "checkpoint_folder",
    "train": "stages.training",
    "write_tables": "report.tables",
    "write_world": "report.world_report",
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
    "DemoArguments",
    "EmbedArguments",
    "PicturebookTrainArguments",
    "TablesArguments",
    "WorldArguments",
    "demo",
    "embed",
    "find_checkpoint",
    "train",
    "write_tables",
    "write_world",
]
