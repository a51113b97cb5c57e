"""Split prompts into text and image sources in reading order."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from .image_sources_gill import is_url, looks_like_image_reference

# A noncharacter of Unicode, which no text holds. Texts are tokenized in parts at it, so that a special token that it
# stands in is ordinary text.
TEXT_BREAK = "\ufdd0"

_EXPECTED = (
    "a string, an image (PIL image, array, tensor, path, URL or bytes), a list of both, or chat messages "
    '[{"role": ..., "content": ...}]'
)
_IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")
# Templates pass over a role that they do not know. Models have further ones, so only misspelt ones are refused.
_ROLES = ("user", "assistant", "system", "developer", "tool")


class ImageSource(NamedTuple):
    """An image of a prompt, not yet opened, and how to name it in an error."""

    source: Any
    where: str


Piece = str | ImageSource
RenderChat = Callable[[list[dict[str, Any]]], str]


class PromptSplitter(NamedTuple):
    """How prompts are split.

    Args:
        image_token (`str`): The placeholder that stands for an image in a text.
        text_tokens (`Sequence[str]`): Special tokens that are ordinary text where somebody typed them.
        allowed_sources (`Sequence[str]`): Where images may come from, see [`load_image`].
        render_chat: Turns chat messages into a text with one placeholder an image.
    """

    image_token: str
    text_tokens: Sequence[str]
    allowed_sources: Sequence[str]
    render_chat: RenderChat

    def split(self, prompt: Any, where: str) -> list[Piece]:
        """Split a prompt into texts and images in reading order.

        Args:
            prompt: See [`GillProcessor.__call__`].
            where (`str`): What to call the prompt in an error.

        Raises:
            ValueError: naming the prompt, what is wrong and what was expected.
        """
        if is_chat(prompt):
            messages = self.normalize_chat(prompt, where)
            sources = [part["image"] for message in messages for part in _image_parts(message)]
            try:
                text = self.render_chat(messages)
            except Exception as error:  # templates are programs of their own
                raise ValueError(f"{where}: the chat template does not take these messages ({error})") from error
            return self.place_images(text, sources, where)
        in_list = isinstance(prompt, (list, tuple))
        pieces: list[Piece] = []
        for number, part in enumerate(prompt if in_list else [prompt]):
            pieces.extend(self._split_part(part, f"{where}, piece {number}" if in_list else where, in_list))
        if not pieces:
            raise ValueError(f"{where} is empty; expected {_EXPECTED}.")
        return pieces

    def place_images(self, text: str, sources: Sequence[Any], where: str) -> list[Piece]:
        """Split a text at its placeholders and put an image at each.

        Raises:
            ValueError: more or fewer placeholders than images, with both counts.
        """
        texts = text.split(self.image_token)
        if len(texts) - 1 != len(sources):
            raise ValueError(
                f"{where} holds {len(texts) - 1} placeholders {self.image_token!r} for {len(sources)} images; "
                "expected one each."
            )
        pieces: list[Piece] = [texts[0]]
        for number, (source, following) in enumerate(zip(sources, texts[1:], strict=True)):
            pieces += [ImageSource(source, f"{where}, image {number}"), following]
        pieces = [piece for piece in pieces if piece]
        if not any(isinstance(piece, ImageSource) or piece.strip() for piece in pieces):
            raise ValueError(f"{where} is empty; expected {_EXPECTED}.")
        return [piece if isinstance(piece, ImageSource) else check_text(piece, where) for piece in pieces]

    def normalize_chat(self, chat: Any, where: str) -> list[dict[str, Any]]:
        """Check chat messages, and copy them with every image under the key `image` and every text escaped.

        Raises:
            ValueError: naming the message, what is wrong and what was expected.
        """
        return [self._normalize_message(message, f"{where}, message {i}") for i, message in enumerate(chat)]

    def escape(self, text: str) -> str:
        """Put breaks into the special tokens that somebody typed."""
        for token in self.text_tokens:
            text = text.replace(token, token[:1] + TEXT_BREAK + token[1:])
        return text

    def _normalize_message(self, message: Any, where: str) -> dict[str, Any]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f'{where} is {message!r:.60}; expected {{"role": "user", "content": ...}}.')
        role = message["role"]
        if not role or (role not in _ROLES and role.strip().lower() in _ROLES):
            raise ValueError(f"{where}: its role is {role!r}; expected one such as {', '.join(map(repr, _ROLES))}.")
        content = message.get("content")
        if not isinstance(content, (str, list, tuple)):
            raise ValueError(f"{where}: its content is {content!r:.60}; expected a string or a list of parts.")
        if isinstance(content, str):
            normalized: Any = self.escape(check_text(content, where))
        else:
            normalized = [self._normalize_part(part, f"{where}, part {i}") for i, part in enumerate(content)]
        return {**message, "role": self.escape(role), "content": normalized}

    def _normalize_part(self, part: Any, where: str) -> dict[str, Any]:
        kind = _part_type(part, where)
        if kind == "image":
            return {"type": "image", "image": _part_image(part, where)}
        return {"type": "text", "text": self.escape(_part_text(part, where))}

    def _split_part(self, part: Any, where: str, in_list: bool) -> list[Piece]:
        # Only inside of a list can a string be an image: a text that happens to be a URL is fetched by nobody.
        if isinstance(part, str) and not (in_list and looks_like_image_reference(part, self.allowed_sources)):
            text = self.escape(check_text(part, where))
            if not in_list and not part.strip():
                raise ValueError(f"{where} is an empty string; expected {_EXPECTED}.")
            return [text] if text else []
        if isinstance(part, Mapping) and "type" in part:
            if _part_type(part, where) == "image":
                return [ImageSource(_part_image(part, where), where)]
            return self._split_part(_part_text(part, where), where, in_list=False)
        if isinstance(part, Mapping) and "role" in part:
            raise ValueError(f"{where} is a chat message alone; expected a list of messages.")
        if _is_image(part) or isinstance(part, (str, Mapping)):
            return [ImageSource(part, where)]
        raise ValueError(f"{where} is {part!r:.60} of type {type(part).__name__}; expected {_EXPECTED}.")


def list_prompts(prompt: Any) -> list[Any]:
    """Make a list of one prompt, or of prompts in any iterable such as a column of a dataset or a generator.

    A list is always a batch, except for one conversation of chat messages.

    Raises:
        ValueError: no prompt at all.
    """
    if prompt is None:
        raise ValueError(f"The prompt is None; expected {_EXPECTED}, or a list of such prompts.")
    if isinstance(prompt, np.ndarray) and prompt.ndim == 0 and prompt.dtype.kind in "OSU":
        prompt = prompt.item()
    single = isinstance(prompt, (str, Mapping)) or _is_image(prompt) or is_chat(prompt)
    if single or not isinstance(prompt, Iterable):
        return [prompt]
    prompts = list(prompt)
    if not prompts:
        raise ValueError("The list of prompts is empty; expected at least one prompt.")
    return prompts


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is one conversation of chat messages."""
    return isinstance(prompt, (list, tuple)) and any(isinstance(item, Mapping) and "role" in item for item in prompt)


def check_text(text: str, where: str) -> str:
    """Return a text that a tokenizer takes.

    Raises:
        ValueError: for half of a surrogate pair, which is no character.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        character = ord(text[error.start])
        raise ValueError(
            f"{where} holds the lone surrogate U+{character:04X} at character {error.start}; expected valid Unicode."
        ) from error
    return text


def _is_image(part: Any) -> bool:
    if isinstance(part, np.ndarray):
        return part.dtype.kind not in "OSU"  # arrays of strings are lists of prompts
    return isinstance(part, (Image.Image, torch.Tensor, bytes, bytearray, memoryview, PathLike)) or callable(
        getattr(part, "read", None)
    )


def _image_parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [] if isinstance(content, str) else [part for part in content if part["type"] == "image"]


def _part_type(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return "text"
    if kind in ("image", "image_url"):
        return "image"
    raise ValueError(
        f'{where} is {part!r:.60}; expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}.'
    )


def _part_text(part: Mapping[str, Any], where: str) -> str:
    if not isinstance(part.get("text"), str):
        raise ValueError(f"{where}: its text is {part.get('text')!r:.60}; expected a string.")
    return check_text(part["text"], where)


def _part_image(part: Mapping[str, Any], where: str) -> Any:
    for key in _IMAGE_KEYS:
        value = part.get(key)
        if value is None:
            continue
        if key == "image_url" and isinstance(value, Mapping):
            value = value.get("url")
        if key == "base64":
            if isinstance(value, (bytes, bytearray)):
                value = bytes(value).decode("ascii", "replace")
            if not isinstance(value, str):
                raise ValueError(f"{where}: its 'base64' is {value!r:.60}; expected a string.")
            return value if value.lstrip()[:5].lower() == "data:" else f"data:image/png;base64,{value}"
        # A URL that a stranger gives must not open a file.
        if key in ("url", "image_url") and not (
            isinstance(value, str) and (is_url(value) or value.lstrip()[:5].lower() == "data:")
        ):
            raise ValueError(f"{where}: its {key!r} is {value!r:.60}; expected an http(s) URL or a data: URI.")
        return value
    raise ValueError(f"{where}: a part of type 'image' has none of the keys {_IMAGE_KEYS}; it has {sorted(part)}.")


__all__ = ["TEXT_BREAK", "ImageSource", "Piece", "PromptSplitter", "check_text", "is_chat", "list_prompts"]
