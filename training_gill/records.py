"""Records of five kinds that a run of a model that writes and draws is trained on, read from JSON and checked."""

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["both", "text_to_image", "image_to_text"]
DIRECTIONS: tuple[Direction, ...] = ("both", "text_to_image", "image_to_text")
# Where the images of a conversation stand in its texts: one that is read, and one that is drawn.
IMAGE_MARKER, DREAM_MARKER = "<image>", "<dream>"
MARKERS = re.compile(f"({re.escape(IMAGE_MARKER)}|{re.escape(DREAM_MARKER)})")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_CHARACTERS_SHOWN = 60

# From the name of an image to what `load_image` or `RecordImage.read` opens.
FindImage = Callable[[str], Any]


class RecordError(ValueError):
    """A record that cannot be trained on. The message names the field, what was found and what was expected."""


class RecordFormError(RecordError):
    """A record that is not of its kind at all: a field that is missing, or of another type."""


@dataclass(frozen=True)
class RecordImage:
    """
    An image of a record, not yet opened.

    Attributes:
        source: What [`~modeling_gill.image_loading_gill.load_image`] takes, or an object whose `read()` gives that.
        name (`str`): For messages.
    """

    source: Any
    name: str


@dataclass(frozen=True)
class PairRecord:
    """
    An image with its caption.

    Attributes:
        image ([`RecordImage`])
        caption (`str`): As it stands in the data.
        min_image_side (`int`): Pixels that the shorter side of the image must have for the pair to count.
    """

    image: RecordImage
    caption: str
    min_image_side: int = 1


@dataclass(frozen=True)
class DocumentImage:
    """An image of a document, and the index of the sentence that it follows."""

    image: RecordImage
    matched_text_index: int


@dataclass(frozen=True)
class DocumentRecord:
    """
    Sentences with images between them (MMC4's form), and optionally the instruction that asked for them.

    Attributes:
        texts (`tuple[str]`): The sentences.
        images (`tuple[DocumentImage]`): In any order.
        instruction (`str`, *optional*): What a user said; the document is then the answer.
    """

    texts: tuple[str, ...]
    images: tuple[DocumentImage, ...]
    instruction: str | None = None


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation: `"user"` or `"assistant"`, and the text with its markers."""

    role: str
    text: str


@dataclass(frozen=True)
class ConversationRecord:
    """
    A dialogue (LLaVA's form).

    Attributes:
        turns (`tuple[Turn]`): Beginning with the user's; `<image>` marks an image that is read, `<dream>` one that is
            drawn.
        images (`tuple[RecordImage]`): One that all markers mean, or one for each marker in their order.
    """

    turns: tuple[Turn, ...]
    images: tuple[RecordImage, ...] = field(default=())

    def marked_images(self) -> list[tuple[str, RecordImage]]:
        """Each marker of the texts, in their order, with its image."""
        markers = [marker for turn in self.turns for marker in MARKERS.findall(turn.text)]
        images = self.images * len(markers) if len(self.images) == 1 else self.images
        return list(zip(markers, images, strict=True))


Record = PairRecord | DocumentRecord | ConversationRecord


def read_pair(
    fields: Any,
    find_image: FindImage,
    image_column: str = "image",
    caption_column: str = "caption",
    min_image_side: int = 1,
) -> PairRecord:
    """
    A pair as a JSON object, `{"image": path, "caption": text}`.

    Raises:
        RecordFormError: another form.
    """
    fields = _object(fields, "the record")
    name = _string(fields, image_column)
    caption = fields.get(caption_column)
    if not isinstance(caption, str):
        raise RecordFormError(f"`{caption_column}` is {shown(caption)}; expected text.")
    return PairRecord(RecordImage(find_image(name), name), caption, min_image_side)


def read_document(fields: Any, find_image: FindImage, instructed: bool = False) -> DocumentRecord:
    """
    A document in MMC4's form, `{"text_list": [...], "image_info": [{"image_name", "matched_text_index"}, ...]}`.

    Every image is kept, whatever its `matched_sim`.

    Args:
        fields: The JSON object.
        find_image: From `image_name` to what is opened later.
        instructed (`bool`): Whether it must have an `"instruction"`.

    Raises:
        RecordFormError: another form. RecordError: an index that no sentence has.
    """
    fields = _object(fields, "the record")
    texts = tuple(_strings(fields, "text_list"))
    images = []
    for number, info in enumerate(_list(fields, "image_info")):
        where = f"`image_info[{number}]"
        if not isinstance(info, Mapping):
            raise RecordFormError(f"{where}` is {shown(info)}; expected an object with `image_name`.")
        name, index = info.get("image_name"), info.get("matched_text_index")
        if not isinstance(name, str) or not name.strip():
            raise RecordFormError(f"{where}.image_name` is {shown(name)}; expected the name of a file.")
        if not isinstance(index, int) or isinstance(index, bool):
            raise RecordFormError(f"{where}.matched_text_index` is {shown(index)}; expected the index of a text.")
        if not 0 <= index < len(texts):
            raise RecordError(
                f"{where}.matched_text_index` is {index}; expected the index of one of the {len(texts)} texts of "
                "`text_list`."
            )
        images.append(DocumentImage(RecordImage(find_image(name), name), index))
    return DocumentRecord(texts, tuple(images), _string(fields, "instruction") if instructed else None)


def read_conversation(fields: Any, find_image: FindImage) -> ConversationRecord:
    """
    A conversation in LLaVA's form, `{"image": path?, "conversations": [{"from": "human" | "gpt", "value": text}]}`.

    A turn of the assistant that nothing precedes is left out. `image` may be a list, with a path for each marker.

    Raises:
        RecordFormError: another form. RecordError: no turn that is left, or another number of images than of markers.
    """
    fields = _object(fields, "the record")
    turns = []
    for number, turn in enumerate(_list(fields, "conversations")):
        where = f"`conversations[{number}]"
        if not isinstance(turn, Mapping):
            raise RecordFormError(f'{where}` is {shown(turn)}; expected {{"from": "human" or "gpt", "value": text}}.')
        role, text = turn.get("from"), turn.get("value")
        if not isinstance(role, str) or role not in _ROLES:
            raise RecordFormError(f"{where}.from` is {shown(role)}; expected one of {', '.join(_ROLES)}.")
        if not isinstance(text, str):
            raise RecordFormError(f"{where}.value` is {shown(text)}; expected text.")
        turns.append(Turn(_ROLES[role], text))
    names = fields.get("image")
    names = [] if names is None else names if isinstance(names, list) else [names]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise RecordFormError(f"`image` is {shown(name)}; expected the path of a file.")
    lost = 0
    if turns and turns[0].role == "assistant":
        lost = len(MARKERS.findall(turns.pop(0).text))
    if not turns:
        raise RecordError("`conversations` holds no turn of the user; expected a question and its answer.")
    markers = sum(len(MARKERS.findall(turn.text)) for turn in turns)
    if len(names) > 1:
        names = names[lost:]
    if (lost and not markers) or (not names and not markers):
        names = []
    elif not markers:
        raise RecordError(
            f"`image` is {shown(fields['image'])}, but no text of `conversations` holds {IMAGE_MARKER} or "
            f"{DREAM_MARKER}; expected one where the image stands."
        )
    elif len(names) not in (1, markers):
        raise RecordError(
            f"the texts of `conversations` hold {markers} of {IMAGE_MARKER} and {DREAM_MARKER}, and `image` names "
            f"{len(names)} images; expected one image, or one for each."
        )
    return ConversationRecord(tuple(turns), tuple(RecordImage(find_image(name), name) for name in names))


def inside_folder(name: str) -> str:
    """
    The name of an image as a relative path, without detours.

    Raises:
        RecordFormError: it is a URL, an absolute path or one that leaves its folder.
    """
    path = posixpath.normpath(name.strip())
    first = path.replace("\\", "/").split("/")[0]
    if first in ("", "..") or re.match(r"~|[A-Za-z][A-Za-z0-9+.-]*:", first) or "\0" in name:
        raise RecordFormError(f"the image is {shown(name)}; expected a relative path inside of the image folder.")
    return path


def shown(value: Any) -> str:
    """A value as messages show it, short."""
    text = repr(value)
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[: _CHARACTERS_SHOWN - 3]}..."


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RecordFormError(f"{what} is {shown(value)}; expected a JSON object.")
    return value


def _list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name)
    if not isinstance(value, list):
        found = f"`{name}` is {shown(value)}" if name in fields else f"it has no `{name}`"
        raise RecordFormError(f"{found}; expected a list.")
    return value


def _string(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        found = f"`{name}` is {shown(value)}" if name in fields else f"it has no `{name}`"
        raise RecordFormError(f"{found}; expected text.")
    return value


def _strings(fields: Mapping[str, Any], name: str) -> list[str]:
    values = _list(fields, name)
    for number, value in enumerate(values):
        if not isinstance(value, str):
            raise RecordFormError(f"`{name}[{number}]` is {shown(value)}; expected text.")
    return values


__all__ = [
    "DIRECTIONS",
    "DREAM_MARKER",
    "IMAGE_MARKER",
    "MARKERS",
    "ConversationRecord",
    "Direction",
    "DocumentImage",
    "DocumentRecord",
    "FindImage",
    "PairRecord",
    "Record",
    "RecordError",
    "RecordFormError",
    "RecordImage",
    "Turn",
    "inside_folder",
    "read_conversation",
    "read_document",
    "read_pair",
    "shown",
]
