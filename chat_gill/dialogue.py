"""A dialogue as Gradio's chat component holds it, as the model reads it, and as a file to keep."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .figures import data_uri, image_bytes_of, is_placeholder
from .limits import ChatLimits, RequestRefused

STYLE = Path(__file__).with_name("page.css")


def messages_of(
    history: Sequence[Mapping[str, Any]], message: Mapping[str, Any] | str, limits: ChatLimits
) -> list[Any]:
    """The chat messages that the model reads.

    Args:
        history: Messages of [`gradio.Chatbot`]. Its notes and placeholders are left out.
        message: `{"text": ..., "files": [...]}` of [`gradio.MultimodalTextbox`]; files are uploads. A message that
            was edited is its text alone: its files are the end of the history.
        limits ([`ChatLimits`]): The oldest messages are left out where a dialogue is longer.

    Raises:
        RequestRefused: nothing was typed, or too much, or a file is no image.
    """
    if isinstance(message, str):
        message = {"text": message}
    text, files = (message.get("text") or "").strip(), message.get("files") or []
    if not text and not files:
        raise RequestRefused("Type something or add an image first.")
    if len(text) > limits.max_characters:
        raise RequestRefused(f"That is {len(text)} characters; at most {limits.max_characters} can be read at once.")
    if len(files) > limits.max_images_per_message:
        raise RequestRefused(f"Those are {len(files)} images; at most {limits.max_images_per_message} go at once.")
    new: list[dict[str, Any]] = [{"type": "image", "image": open_image(_path_of(file), limits)} for file in files]
    if text:
        new.append({"type": "text", "text": text})
    messages = [{"role": "user", "content": new}]
    num_images = len(files)
    for turn in reversed(history):
        content = _content_of(turn, limits)
        num_images += sum(part["type"] == "image" for part in content)
        if num_images > limits.max_images or len(messages) >= limits.max_messages:
            break
        if not content:
            continue
        if messages[0]["role"] == turn["role"]:  # Gradio keeps images and text of one message apart
            messages[0]["content"] = [*content, *messages[0]["content"]]
        else:
            messages.insert(0, {"role": turn["role"], "content": content})
    return messages


def open_image(source: Any, limits: ChatLimits) -> Image.Image:
    """An upload as an RGB image of a size that a model needs.

    Raises:
        RequestRefused: it is no image, or too large.
    """
    from modeling_gill.image_loading_gill import ImageError, load_image

    of_images = limits.of_images()
    try:
        if isinstance(source, str | Path):
            if Path(source).stat().st_size > limits.max_image_bytes:
                raise RequestRefused(f"The image is larger than {limits.max_image_bytes // 2**20} MB.")
            source = Path(source).read_bytes()
        image = load_image(
            source,
            timeout=of_images.timeout,
            max_bytes=of_images.max_bytes,
            max_pixels=of_images.max_pixels,
            allowed_sources=("memory",),
        )
    except (ImageError, OSError) as error:
        raise RequestRefused("The file could not be read as an image; PNG, JPEG and WebP work.") from error
    image.thumbnail((limits.image_size, limits.image_size))
    return image


def dialogue_page(history: Sequence[Mapping[str, Any]], title: str) -> str:
    """A dialogue as one HTML file that holds its images."""
    turns = []
    for turn in history:
        who = "You" if turn["role"] == "user" else "GILL"
        shown = "".join(_shown(item) for item in _items_of(turn))
        turns.append(f'<section class="{turn["role"]}"><h2>{who}</h2>{shown}</section>')
    return _PAGE.format(title=html.escape(title), style=STYLE.read_text(encoding="utf-8"), turns="\n".join(turns))


def _content_of(turn: Mapping[str, Any], limits: ChatLimits) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for item in _items_of(turn):
        if item.kind == "text":
            content.append({"type": "text", "text": item.value[: limits.max_characters]})
        elif item.kind == "file":
            content.append({"type": "image", "image": open_image(item.value, limits)})
        elif (file := image_bytes_of(item.value)) is not None:
            content.append({"type": "image", "image": open_image(file, limits)})
    return content


class _Item(NamedTuple):
    """A part of a shown message: `"text"`, `"html"` of this page's own, or the path of an uploaded `"file"`."""

    kind: str
    value: str


def _items_of(turn: Mapping[str, Any]) -> list[_Item]:
    content = turn["content"] if isinstance(turn["content"], list) else [turn["content"]]
    items: list[_Item] = []
    for item in content:
        if isinstance(item, str):
            items.append(_Item("text", item))
        elif not isinstance(item, Mapping):
            # made by this page's own function: Gradio keeps arguments there and builds nothing
            items.append(_Item("html", str(item.constructor_args["value"])))
        elif item.get("type") == "text":
            items.append(_Item("text", item["text"]))
        elif item.get("type") == "component":
            items.append(_Item("html", str(item.get("value"))))
        else:
            items.append(_Item("file", _path_of(item.get("file", item))))
    return items


def _shown(item: _Item) -> str:
    if item.kind == "text":
        return f"<p>{html.escape(item.value)}</p>"
    if item.kind == "html":
        return "" if is_placeholder(item.value) else item.value
    with Image.open(item.value) as image:
        return f'<img class="gill-upload" alt="an image that you added" src="{data_uri(image)}">'


def _path_of(file: Any) -> str:
    return str(file["path"] if isinstance(file, Mapping) else getattr(file, "path", file))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body class="gill-dialogue"><main><h1>{title}</h1>
{turns}
</main></body></html>
"""


__all__ = ["dialogue_page", "messages_of", "open_image"]
