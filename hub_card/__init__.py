"""Model cards, and the push of a repository with its card in one commit."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .upload import push
    from .writing import write_card

_MODULES = {"push": "upload", "write_card": "writing"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = ["push", "write_card"]
