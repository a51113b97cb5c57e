"""Turns the files of the original GILL, FROMAGe and DreamLLM releases into a Hub repository."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .arguments import ConversionOptions
    from .converter import convert
    from .original_files import ConversionError
    from .verification import VerificationError

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".original_files": ["ConversionError"],
        ".arguments": ["ConversionOptions"],
        ".verification": ["VerificationError"],
        ".converter": ["convert"],
    },
)

__all__ = ["ConversionError", "ConversionOptions", "VerificationError", "convert"]
