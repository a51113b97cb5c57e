"""Instructed documents: texts and images in turn as the answer to an instruction, in MMC4's form."""

import os
from dataclasses import dataclass
from typing import Any

from pipeline_gill.caption_files import read_json


@dataclass(frozen=True)
class Document:
    """An instructed document.

    Attributes:
        name (`str`): Its number in the file, from 0.
        instruction (`str`): What a user asked for.
        texts (`tuple[str, ...]`):
            For each image the sentences after the one before, up to and with the one that the image belongs to; of two
            images of one sentence the second has those of the first.
        images (`tuple[str, ...]`): Names of the files, in the order of their sentences.
    """

    name: str
    instruction: str
    texts: tuple[str, ...]
    images: tuple[str, ...]


def read_documents(path: str | os.PathLike[str]) -> list[Document]:
    """Read a JSON list of instructed documents.

    Each is `{"instruction": text, "text_list": [text, ...], "image_info": [{"image_name": file, "matched_text_index":
    number of a text}, ...]}`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is something else, or a document lacks a part; names it.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} holds no list of documents.")
    documents = []
    for number, fields in enumerate(content):
        try:
            documents.append(_document(str(number), fields))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, document {number} is no instructed document: {error!r}.") from error
        except ValueError as error:
            raise ValueError(f"{path}, document {number}: {error}") from error
    return documents


def _document(name: str, fields: Any) -> Document:
    instruction, sentences = fields["instruction"].strip(), [text.strip() for text in fields["text_list"]]
    if not instruction:
        raise ValueError("its `instruction` is empty.")
    infos = sorted(fields["image_info"], key=lambda info: info["matched_text_index"])
    texts: list[str] = []
    first = 0
    for info in infos:
        index = info["matched_text_index"]
        if type(index) is not int or not 0 <= index < len(sentences):
            raise ValueError(f"`matched_text_index` is {index!r:.20}, expected the index of one of its texts.")
        own = " ".join(sentences[first : index + 1]).strip()
        texts.append(own or (texts[-1] if texts else instruction))
        first = index + 1
    images = [info["image_name"] for info in infos]
    if not all(isinstance(image, str) and image for image in images):
        raise ValueError("an `image_name` is not the name of a file.")
    return Document(name, instruction, tuple(texts), tuple(images))


__all__ = ["Document", "read_documents"]
