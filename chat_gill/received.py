"""What a browser or a program may send to a component of the page: its own uploads, and HTML that the page wrote.

Gradio checks that a file was uploaded only where its description carries a certain mark, and leaves out the mark's
check where somebody leaves out the mark; and its chat component builds whatever component a message names.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.chatbot import ChatbotDataMessages, ComponentMessage
from gradio.utils import get_upload_folder


def only_from_this_page(component: gr.components.Component) -> None:
    """Have a component refuse what [`refuse_foreign`] refuses, before it opens or builds anything."""
    # Not a subclass: Gradio writes a .pyi file beside every module that has one.
    preprocess = component.preprocess

    def checked(payload: Any) -> Any:
        refuse_foreign(payload)
        return preprocess(payload)

    component.preprocess = checked


def refuse_foreign(payload: Any) -> None:
    """
    Raises:
        gradio.Error: a file that was not uploaded to the page, or a component other than HTML.
    """
    if isinstance(payload, ChatbotDataMessages):
        for item in (item for message in payload.root for item in message.content):
            if isinstance(item, ComponentMessage):
                if item.component != "html" or not isinstance(item.value, str):
                    raise gr.Error("This dialogue holds something that this page did not write.")
                item.constructor_args, item.props = {}, {}
    uploads = Path(get_upload_folder()).resolve()
    for path in _paths_in(payload.model_dump() if hasattr(payload, "model_dump") else payload):
        if not Path(path).resolve().is_relative_to(uploads):
            raise gr.Error("This file was not uploaded to this page.")


def _paths_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [str(value["path"])] if isinstance(value.get("path"), str) else []
        return own + [path for inner in value.values() for path in _paths_in(inner)]
    if isinstance(value, (list, tuple)):
        return [path for inner in value for path in _paths_in(inner)]
    return []


__all__ = ["only_from_this_page", "refuse_foreign"]
