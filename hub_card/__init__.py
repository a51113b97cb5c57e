"""Model cards, and the push of a repository with its card in one commit."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .upload import push
    from .writing import write_card

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".upload": ["push"],
        ".writing": ["write_card"],
    },
)

__all__ = ["push", "write_card"]
