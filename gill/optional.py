"""Optional dependencies: which extra installs them, and the error that says so."""

from importlib import import_module
from types import ModuleType

DISTRIBUTION = "gill-multimodal"

EXTRA_OF = {
    "datasets": "retrieval",
    "faiss": "retrieval",
    "peft": "training",
    "tensorboard": "training",
    "evaluate": "evaluation",
    "scipy": "evaluation",
    "torchmetrics": "evaluation",
}


def require(package: str, extra: str | None = None) -> ModuleType:
    """
    Import an optional dependency.

    Args:
        package (`str`): Name to import.
        extra (`str`, *optional*): Extra of this distribution that installs it. Defaults to the one in `EXTRA_OF`.

    Raises:
        ImportError: if it is not installed; the message names the extra to install.

    Example:
        >>> from gill.optional import require
        >>> require("json", "evaluation").dumps([1])
        '[1]'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(how_to_install(package, extra or EXTRA_OF[package]), name=package) from error


def how_to_install(package: str, extra: str) -> str:
    """The sentence for a package that is missing."""
    return f"`{package}` is not installed; install it with: pip install '{DISTRIBUTION}[{extra}]'"


__all__ = ["DISTRIBUTION", "EXTRA_OF", "how_to_install", "require"]
