"""JSON files that are one list of records, read record by record without holding them in memory."""

import codecs
import json
import mmap
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_SPACE = re.compile(r"[ \t\r\n]*")
_CHUNK = 1 << 24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class JsonListError(ValueError):
    """A file that is no JSON list of records; the message names it, the record and what was expected."""


class JsonList:
    """
    The records of a JSON list by their number, from 0.

    The file is read once, to check it and to find where each record stands; a record is read again when it is asked
    for. What stays in memory is 16 bytes a record.

    Args:
        path: The file, in UTF-8.
        check: Called with each record; raises `ValueError` for one that is wrong.

    Raises:
        OSError: the file cannot be read.
        JsonListError: no JSON, no list, no records, or one that `check` refuses.

    Example:

        >>> from training_gill.json_lists import JsonList
        >>> _ = open("records.json", "w").write('[{"caption": "a red car"}, {"caption": "a cat"}]')
        >>> JsonList("records.json", check=lambda record: None)[1]
        {'caption': 'a cat'}
    """

    def __init__(self, path: str | os.PathLike[str], check: Callable[[Any], object]) -> None:
        self.path = os.fspath(path)
        with open(self.path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise JsonListError(f"{self.path} is empty; expected a JSON list, [...].")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                self._begins, self._ends = self._find(content, check)
        if not len(self):
            raise JsonListError(f"{self.path} is an empty list; expected records.")

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: int) -> Any:
        """
        Raises:
            OSError: the file cannot be read.
            ValueError: the file has been changed since it was opened.
        """
        begin, end = int(self._begins[number]), int(self._ends[number])
        with open(self.path, "rb") as file:
            file.seek(begin)
            return json.loads(file.read(end - begin))

    def _find(self, content: mmap.mmap, check: Callable[[Any], object]) -> tuple[np.ndarray, np.ndarray]:
        self._check_encoding(content)
        # One character a byte, so that places in the text are places in the file.
        text = str(content, "latin-1")
        place = len(_BYTE_ORDER_MARK) if content[: len(_BYTE_ORDER_MARK)] == _BYTE_ORDER_MARK else 0
        decoder = json.JSONDecoder()
        begins: list[int] = []
        ends: list[int] = []
        place = _after_space(text, place)
        if text[place : place + 1] != "[":
            raise JsonListError(f"{self.path} begins with {text[place : place + 20]!r}; expected a JSON list, [...].")
        place = _after_space(text, place + 1)
        while text[place : place + 1] != "]" or begins:
            where = f"{self.path}, record {len(begins)}"
            try:
                record, end = decoder.raw_decode(text, place)
            except (ValueError, RecursionError) as error:
                raise JsonListError(f"{where}: no JSON, or only the beginning of it ({error}).") from error
            try:
                check(record)
            except ValueError:
                # Once more with the characters as they are, for the message.
                self._check(content[place:end], check, where)
            begins.append(place)
            ends.append(end)
            place = _after_space(text, end)
            if text[place : place + 1] == "]":
                break
            if text[place : place + 1] != ",":
                raise JsonListError(f"{where}: {text[place : place + 20]!r} follows it; expected a comma or a ].")
            place = _after_space(text, place + 1)
        rest = text[_after_space(text, place + 1) :]
        if rest:
            raise JsonListError(f"{self.path}: {rest[:20]!r} follows the list; expected its end.")
        return np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)

    def _check_encoding(self, content: mmap.mmap) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for begin in range(0, len(content), _CHUNK):
                decoder.decode(content[begin : begin + _CHUNK], final=begin + _CHUNK >= len(content))
        except UnicodeDecodeError as error:
            raise JsonListError(f"{self.path} is no UTF-8 ({error.reason}).") from error

    @staticmethod
    def _check(content: bytes, check: Callable[[Any], object], where: str) -> None:
        try:
            check(json.loads(content))
        except ValueError as error:
            raise JsonListError(f"{where}: {error}") from error


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()


__all__ = ["JsonList", "JsonListError"]
