"""Strict readers of the files that people prepare: captions with images as TSV, other tables, lists of lines, JSON.

Lines end at a line feed alone (a carriage return before it belongs to the line end). A carriage return elsewhere, a
vertical tab, a form feed, U+0085, U+2028 and U+2029 are text. A byte order mark at the beginning is dropped, empty
lines are skipped, quotation marks mean nothing, and a row with another number of fields than expected is an error.
"""

import json
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

CAPTION_COLUMNS = ("caption", "captions", "text", "txt")
IMAGE_COLUMNS = (
    "image",
    "images",
    "image_path",
    "image_file",
    "path",
    "file",
    "file_name",
    "filename",
    "filepath",
    "url",
    "image_url",
)
TARGET_CAPTION_COLUMN = "target_caption"
# What tells the name of a file from a caption where there is no header.
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


class CaptionFileError(ValueError):
    """A file that is not what was expected; the message names the file and, where it is one line's fault, the line."""


@dataclass(frozen=True)
class CaptionRow:
    """
    A caption with its image.

    Attributes:
        caption (`str`): Exactly as it stands in the file; may be empty.
        image (`str`): A URL or the path of a file, without white space around it; may be empty.
        line (`int`): Number of the line in the file, from 1.
        target_caption (`str`, *optional*): What the image generator's text encoder is asked for in place of the
            caption, where the file has a column for it; may be empty.
    """

    caption: str
    image: str
    line: int
    target_caption: str | None = None


def read_captions(
    path: str | os.PathLike[str],
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    target_caption_column: str | None = None,
) -> Iterator[CaptionRow]:
    """
    Read a TSV of captions and images, row by row.

    The file has two columns, caption and image, as CC3M's own files have; or any columns under a header that names a
    column for each. The header is recognised by the usual names, [`CAPTION_COLUMNS`] and [`IMAGE_COLUMNS`].

    Args:
        path: The file.
        image_column, caption_column (`str`, *optional*): Names of the columns; the file must then have a header. By
            default the first of the usual names that the header has.
        image_root (*optional*): A folder. Names of files are then looked up in it with [`find_image`].
        target_caption_column (`str`, *optional*): By default `target_caption`, where the header has it.

    Raises:
        OSError: the file cannot be read.
        CaptionFileError: no UTF-8, a column is missing, a row has too many or too few fields, or there is no row at
            all; `find_image`'s error with the line. Raised when iteration reaches it.

    Example:

        >>> from pipeline_gill.caption_files import read_captions
        >>> _ = open("captions.tsv", "w").write("caption\\timage\\na red car\\tcar.png\\n")
        >>> list(read_captions("captions.tsv"))
        [CaptionRow(caption='a red car', image='car.png', line=2, target_caption=None)]
    """
    lines = read_lines(path)
    line, text = next(lines, (0, ""))
    first = _header(text)
    columns = _caption_columns(first, image_column, caption_column, path) if line else None
    target_at = _target_column(first, target_caption_column, path) if columns is not None else None
    if columns is None:
        if target_caption_column is not None:
            raise CaptionFileError(f"{path} has no header; expected one with the column {target_caption_column!r}.")
        header, (caption_at, image_at) = ["caption", "image"], (0, 1)
        rows = _table_rows(_chain((line, text), lines) if line else lines, header, path)
    else:
        header, (caption_at, image_at) = first, columns
        rows = _table_rows(lines, header, path)
    is_empty = True
    for row in rows:
        is_empty = False
        image = row.fields[image_at].strip()
        if image_root is not None and image:
            try:
                image = find_image(image_root, image)
            except CaptionFileError as error:
                raise CaptionFileError(f"{path}, line {row.line}: {error}") from error
        target = None if target_at is None else row.fields[target_at]
        yield CaptionRow(row.fields[caption_at], image, row.line, target)
    if is_empty:
        raise CaptionFileError(f"{path} holds no captions{', only a header' if columns else ''}.")


@dataclass(frozen=True)
class TableRow:
    """Fields of a row, as many as the table has columns, and the number of its line from 1."""

    fields: list[str]
    line: int


def read_table(path: str | os.PathLike[str]) -> tuple[list[str], Iterator[TableRow]]:
    """
    Read a TSV whose first line is a header.

    Returns:
        The names of the columns, without white space around them, and an iterator over the rows.

    Raises:
        OSError: the file cannot be read.
        CaptionFileError: no UTF-8, no header, a name that comes twice, or a row with too many or too few fields.
    """
    lines = read_lines(path)
    line, text = next(lines, (0, ""))
    if not line:
        raise CaptionFileError(f"{path} is empty; expected a header.")
    header = _header(text)
    _refuse_repeated(header, path)
    return header, _table_rows(lines, header, path)


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """
    Lines that are not empty, with their numbers from 1, without line ends; white space around the text is kept.

    Raises:
        OSError: the file cannot be read.
        CaptionFileError: no UTF-8 text.
    """
    with open(path, "rb") as file:
        for number, content in enumerate(file, start=1):
            if number == 1:
                if content.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise CaptionFileError(f"{path} is UTF-16; expected UTF-8.")
                content = content.removeprefix(b"\xef\xbb\xbf")
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise CaptionFileError(f"{path}, line {number}: no UTF-8 ({error.reason}).") from error
            if "\0" in text:
                raise CaptionFileError(f"{path}, line {number}: a null character; expected text in UTF-8.")
            text = text.removesuffix("\n").removesuffix("\r")
            if text.strip():
                yield number, text


def read_json(path: str | os.PathLike[str]) -> Any:
    """
    Content of a JSON file, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        CaptionFileError: no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CaptionFileError(f"{path} is no JSON, or only the beginning of one: {error}") from error


def find_image(root: str | os.PathLike[str], name: str) -> str:
    """
    Path of the file in `root` that `name` means; a URL stays as it is.

    Where no file has exactly this name, files whose name is [another spelling][`spellings`] of it are looked for. Where
    there is none either, the path that was asked for is returned, for the caller to report as missing.

    Raises:
        CaptionFileError: several files are other spellings of the name.

    Example:

        >>> from pipeline_gill.caption_files import find_image
        >>> _ = open("red car.png", "w")
        >>> find_image(".", "red%20car.png")
        './red car.png'
    """
    if "://" in name or name.startswith("data:"):
        return name
    path = os.path.join(root, name)
    if os.path.lexists(path):
        return path
    folders = [os.path.join(root, "")] if not os.path.isabs(name) else [os.sep]
    parts = [part for part in Path(name).parts if part != os.sep]
    for part in parts:
        folders = [
            os.path.join(folder, spelled)
            for folder in folders
            for spelled in spellings(part)
            if os.path.lexists(os.path.join(folder, spelled))
        ]
    found: list[str] = []
    for candidate in folders:
        # A file system that ignores normal forms shows one file under several spellings.
        if os.path.isfile(candidate) and not any(os.path.samefile(candidate, other) for other in found):
            found.append(candidate)
    if len(found) > 1:
        raise CaptionFileError(f"{name!r} may be any of the files {found}; expected one.")
    return found[0] if found else path


def spellings(name: str) -> list[str]:
    """
    A file name and how else it may be spelled, the name itself first.

    Composed and decomposed characters (Unicode's normal forms NFC and NFD), and `%20` for a space and the like, either
    way round.
    """
    plain = [name, unquote(name), quote(name, safe="/")]
    forms = [unicodedata.normalize(form, text) for text in plain for form in ("NFC", "NFD")]
    escaped = [quote(unicodedata.normalize(form, name), safe="/") for form in ("NFC", "NFD")]
    return list(dict.fromkeys([*plain, *forms, *escaped]))


def _caption_columns(
    names: list[str], image_column: str | None, caption_column: str | None, path: str | os.PathLike[str]
) -> tuple[int, int] | None:
    """Places of caption and image; `None` where the first line is no header but a row."""
    lower = [name.lower() for name in names]
    places = {}
    for what, chosen, usual in (
        ("caption", caption_column, CAPTION_COLUMNS),
        ("image", image_column, IMAGE_COLUMNS),
    ):
        if chosen is not None:
            if chosen not in names:
                raise CaptionFileError(f"{path} has the columns {names}, expected {chosen!r} among them.")
            places[what] = names.index(chosen)
        else:
            known = next((name for name in usual if name in lower), None)
            if known is not None:
                places[what] = lower.index(known)
    if len(places) == 2:
        _refuse_repeated(names, path)
        return places["caption"], places["image"]
    is_row = len(names) == 2 and _may_be_image(names[1])
    if image_column is not None or caption_column is not None or (places and not is_row):
        raise CaptionFileError(
            f"{path} begins with what looks like a header: {names}; expected columns for caption and image by usual "
            f"names ({', '.join(CAPTION_COLUMNS)}; {', '.join(IMAGE_COLUMNS)}), or their names given."
        )
    if len(names) == 2 and _may_be_image(names[0]) and not _may_be_image(names[1]):
        raise CaptionFileError(
            f"{path} begins with an image and then a caption: {names}; expected the caption first, or a header."
        )
    return None


def _target_column(names: list[str], chosen: str | None, path: str | os.PathLike[str]) -> int | None:
    if chosen is None:
        lower = [name.lower() for name in names]
        return lower.index(TARGET_CAPTION_COLUMN) if TARGET_CAPTION_COLUMN in lower else None
    if chosen not in names:
        raise CaptionFileError(f"{path} has the columns {names}, expected {chosen!r} among them.")
    return names.index(chosen)


def _may_be_image(text: str) -> bool:
    return "://" in text or "/" in text or text.lower().endswith(_IMAGE_SUFFIXES)


def _table_rows(
    lines: Iterator[tuple[int, str]], header: Sequence[str], path: str | os.PathLike[str]
) -> Iterator[TableRow]:
    for line, text in lines:
        fields = text.split("\t")
        if len(fields) == len(header) + 1 and not fields[-1].strip():
            fields.pop()  # a tab at the end of the row
        if len(fields) != len(header):
            raise CaptionFileError(
                f"{path}, line {line}: {len(fields)} fields, expected {len(header)} ({', '.join(header)})."
            )
        yield TableRow(fields, line)


def _header(text: str) -> list[str]:
    names = [name.strip() for name in text.split("\t")]
    return names if names[-1] else names[:-1]


def _chain(first: tuple[int, str], rest: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield first
    yield from rest


def _refuse_repeated(names: Sequence[str], path: str | os.PathLike[str]) -> None:
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise CaptionFileError(f"{path} has several columns named {repeated}; expected different names.")


__all__ = [
    "CAPTION_COLUMNS",
    "IMAGE_COLUMNS",
    "TARGET_CAPTION_COLUMN",
    "CaptionFileError",
    "CaptionRow",
    "TableRow",
    "find_image",
    "read_captions",
    "read_json",
    "read_lines",
    "read_table",
    "spellings",
]
