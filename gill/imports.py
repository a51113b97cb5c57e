"""How packages are imported: names on first use, without messages that nobody can act on, optional ones by extra."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

DISTRIBUTION = "gill-multimodal"

EXTRA_OF = {
    "datasets": "retrieval",
    "faiss": "retrieval",
    "peft": "training",
    "tensorboard": "training",
    "evaluate": "evaluation",
    "scipy": "evaluation",
    "torchmetrics": "evaluation",
    "gradio": "chat",
    "mcp": "chat",
    "gguf": "picturebook-smollm2",
}
"""Optional dependency, by the name that is imported, to the extra of this distribution that installs it."""


def lazy_names(
    package: str, names_in: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """
    `__getattr__` and `__dir__` of a package whose names are imported the first time they are used.

    Args:
        package (`str`): `__name__` of the package.
        names_in (`Mapping[str, Sequence[str]]`): Module, such as `".arguments"` of the package, to the names in it.

    Example:
        >>> from gill.imports import lazy_names
        >>> __getattr__, __dir__ = lazy_names("gill", {".cli": ["main"]})
        >>> __getattr__("main").__name__
        'main'
    """
    module_of = {name: module for module, names in names_in.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        quiet_imports()
        value = getattr(import_module(module_of[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return get_attribute, lambda: sorted({*vars(sys.modules[package]), *module_of})


def quiet_imports() -> None:
    """Filter what the libraries log while they are imported; call it before that."""
    # diffusers imports image processors of transformers that nothing here uses; without torchvision, each warns.
    logging.getLogger("transformers.utils.import_utils").addFilter(_is_not_about_torchvision)


def quiet_libraries() -> None:
    """Filter messages for the whole process of a command. What a user can act on is still shown."""
    quiet_imports()
    # Data loader workers are forked after a tokenizer was used; tokenizers warns of that unless this is set.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def how_to_install(package: str) -> str:
    """The error message for a package of `EXTRA_OF` that is missing."""
    return f"`{package}` is not installed; install it with: pip install '{DISTRIBUTION}[{EXTRA_OF[package]}]'"


def _is_not_about_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision (not installed)" not in record.getMessage()


__all__ = ["DISTRIBUTION", "EXTRA_OF", "how_to_install", "lazy_names", "quiet_imports", "quiet_libraries"]
