"""Talk with a GILL model in text and images: a page, an API, MCP tools and a Space."""

from typing import TYPE_CHECKING

from gill.imports import lazy_names

if TYPE_CHECKING:
    from .answer_request import AnswerSettings
    from .arguments import ChatArguments
    from .engine import AnswerEngine
    from .limits import ChatLimits
    from .serving import chat

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".arguments": ["ChatArguments"],
        ".answer_request": ["AnswerSettings"],
        ".engine": ["AnswerEngine"],
        ".limits": ["ChatLimits"],
        ".serving": ["chat"],
    },
)

__all__ = ["AnswerEngine", "AnswerSettings", "ChatArguments", "ChatLimits", "chat"]
