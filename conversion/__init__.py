"""Turns the files of the original GILL and FROMAGe releases into a Hub repository."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import ConversionOptions
    from .converter import convert
    from .original_files import ConversionError
    from .verification import VerificationError

_MODULES = {
    "ConversionError": "original_files",
    "ConversionOptions": "arguments",
    "VerificationError": "verification",
    "convert": "converter",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


__all__ = ["ConversionError", "ConversionOptions", "VerificationError", "convert"]
