"""Prompts as people write them, taken apart into text and images in reading order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image_loading_gill import load_image, looks_like_image_reference

Piece = str | Image.Image
RenderChat = Callable[[list[dict[str, Any]]], str]

_EXPECTED = (
    "a string, an image (PIL image, array, tensor, path or URL), a list of both, or chat messages "
    '[{"role": ..., "content": ...}]'
)
_IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")


def list_prompts(prompt: Any) -> list[Any]:
    """One prompt or a list of them, as a list.

    A list is always a batch, except for one conversation of chat messages.

    Raises:
        ValueError: no prompt at all.
    """
    if prompt is None:
        raise ValueError(f"The prompt is None; expected {_EXPECTED}, or a list of such prompts.")
    if not isinstance(prompt, (list, tuple)) or is_chat(prompt):
        return [prompt]
    if not prompt:
        raise ValueError("The list of prompts is empty; expected at least one prompt.")
    return list(prompt)


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is one conversation of chat messages."""
    return (
        isinstance(prompt, (list, tuple))
        and len(prompt) > 0
        and all(isinstance(message, dict) and "role" in message for message in prompt)
    )


def split_prompt(prompt: Any, where: str, image_token: str, render_chat: RenderChat) -> list[Piece]:
    """Text and loaded images of one prompt, in reading order, no text empty and no two texts joined.

    Args:
        prompt: See [`GillProcessor.__call__`].
        where (`str`): What to call the prompt in an error.
        image_token (`str`): The placeholder that stands for an image in rendered chats.
        render_chat: Turns chat messages into text with one placeholder an image.

    Raises:
        ValueError: naming the prompt, what is wrong and what was expected.
    """
    if is_chat(prompt):
        sources = [source for message in prompt for source in _chat_images(message, where)]
        return place_images(render_chat(list(prompt)), sources, image_token, where)
    pieces: list[Piece] = []
    parts = prompt if isinstance(prompt, (list, tuple)) else [prompt]
    for number, part in enumerate(parts):
        part_where = f"{where}, piece {number}" if isinstance(prompt, (list, tuple)) else where
        # Only inside of a list can a string be an image: a text that happens to be a URL is fetched by nobody.
        pieces.extend(_split_part(part, part_where, image_token, in_list=isinstance(prompt, (list, tuple))))
    if not pieces:
        raise ValueError(f"{where} is empty; expected {_EXPECTED}.")
    return pieces


def place_images(text: str, sources: Sequence[Any], image_token: str, where: str) -> list[Piece]:
    """Split text at its placeholders and put an image at each.

    Raises:
        ValueError: more or fewer placeholders than images, with both counts.
    """
    texts = text.split(image_token)
    if len(texts) - 1 != len(sources):
        raise ValueError(
            f"{where} holds {len(texts) - 1} placeholders {image_token!r} for {len(sources)} images; expected one each."
        )
    pieces: list[Piece] = [texts[0]]
    for number, (source, following) in enumerate(zip(sources, texts[1:], strict=True)):
        pieces += [_load(source, f"{where}, image {number}"), following]
    pieces = [piece for piece in pieces if not isinstance(piece, str) or piece]
    if not any(not isinstance(piece, str) or piece.strip() for piece in pieces):
        raise ValueError(f"{where} is empty; expected {_EXPECTED}.")
    return pieces


def _split_part(part: Any, where: str, image_token: str, in_list: bool) -> list[Piece]:
    if isinstance(part, str) and not (in_list and looks_like_image_reference(part)):
        if image_token in part:
            raise ValueError(
                f"{where} holds the placeholder {image_token!r}, but no image goes with it; put the image into the "
                "list, or give `text` and `images`."
            )
        if not in_list and not part.strip():
            raise ValueError(f"{where} is an empty string; expected {_EXPECTED}.")
        return [part] if part else []
    if isinstance(part, dict) and part.get("type") == "text":
        return _split_part(str(part.get("text", "")), where, image_token, in_list=False)
    if isinstance(part, dict) and part.get("type", "").startswith("image"):
        return [_load(_content_image(part, where), where)]
    if isinstance(part, (str, Path, Image.Image, np.ndarray, torch.Tensor, bytes, dict)):
        return [_load(part, where)]
    raise ValueError(f"{where} is {part!r:.60} of type {type(part).__name__}; expected {_EXPECTED}.")


def _chat_images(message: dict[str, Any], where: str) -> list[Any]:
    content = message.get("content")
    if isinstance(content, str):
        return []
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"{where}: a chat message's content is {type(content).__name__}; expected a string or a list.")
    return [
        _content_image(part, where)
        for part in content
        if isinstance(part, dict) and str(part.get("type", "")).startswith("image")
    ]


def _content_image(part: dict[str, Any], where: str) -> Any:
    for key in _IMAGE_KEYS:
        if part.get(key) is not None:
            found = part[key]
            if key == "base64":
                return found if str(found).startswith("data:") else f"data:image/png;base64,{found}"
            return found.get("url") if key == "image_url" and isinstance(found, dict) else found
    raise ValueError(f"{where}: a part of type 'image' has none of the keys {_IMAGE_KEYS}; it has {sorted(part)}.")


def _load(source: Any, where: str) -> Image.Image:
    try:
        return load_image(source)
    except ValueError as error:
        raise type(error)(f"{where}: {error}") from error


__all__ = ["Piece", "is_chat", "list_prompts", "place_images", "split_prompt"]
