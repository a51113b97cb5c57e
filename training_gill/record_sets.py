"""Sets of records, each without an end: after its last record it begins again."""

import os
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_gill.caption_files import CaptionFileError, find_image

from .arguments import RecordSetArguments
from .json_lists import JsonList
from .records import (
    FindImage,
    PairRecord,
    Record,
    RecordError,
    RecordImage,
    inside_folder,
    read_conversation,
    read_document,
    read_pair,
    shown,
)
from .seeded_random import random_permutation
from .training_data import CaptionedImages


class RecordSet(ABC):
    """
    Records by an ordinal that grows without end.

    The set begins again after its last record, in another order. With growing ordinals, shards are read from their
    beginning to their end.

    Attributes:
        name (`str`): For messages.
    """

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Records of a pass. All shards are opened to count theirs."""

    @abstractmethod
    def example(self, ordinal: int) -> dict[str, Any]:
        """`name` and `record` of an example, or `name` and `problem`; `notes` are further messages."""


class ListedRecords(RecordSet):
    """
    Records with numbers.

    Args:
        lists: Raw records by their number, laid end to end.
        arguments ([`RecordSetArguments`]): Of the set.
        name (`str`): For messages.
        seed (`int`, *optional*): Shuffles each pass; without it the order is that of the lists.
        purpose (`str`): What tells its random numbers from those of other sets.
    """

    def __init__(
        self, lists: Sequence[Any], arguments: RecordSetArguments, name: str, seed: int | None, purpose: str
    ) -> None:
        self.arguments, self.name = arguments, name
        self._lists, self._seed, self._purpose = lists, seed, purpose
        self._starts = list(accumulate(map(len, lists), initial=0))
        self._pass: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def example(self, ordinal: int) -> dict[str, Any]:
        turn, number = divmod(ordinal, len(self))
        if self._seed is not None:
            if self._pass is None or self._pass[0] != turn:
                self._pass = turn, random_permutation(len(self), self._seed, [turn], self._purpose)
            number = int(self._pass[1][number])
        at = bisect_right(self._starts, number) - 1
        return self._example(self._lists[at], number - self._starts[at])

    @abstractmethod
    def _example(self, records: Any, number: int) -> dict[str, Any]:
        """An example of one of the lists."""


class JsonRecords(ListedRecords):
    """Records of JSON lists, with images in `image_folder`, by default the folder that the list is in."""

    def _example(self, records: JsonList, number: int) -> dict[str, Any]:
        name = f"{records.path}, record {number}"
        folder = self.arguments.image_folder or os.path.dirname(records.path) or "."

        def find(image: str) -> Path:
            return Path(find_image(folder, inside_folder(image)))

        try:
            return {"name": name, "record": read_record(records[number], find, self.arguments)}
        except (RecordError, CaptionFileError) as error:
            return {"name": name, "problem": str(error)}
        except (OSError, ValueError) as error:
            return {"name": name, "problem": f"it cannot be read any more ({error})"}


class CaptionedRecords(ListedRecords):
    """Pairs of data of captioned images, such as a TSV or a data set of the Hub."""

    def _example(self, records: CaptionedImages, number: int) -> dict[str, Any]:
        example = records[number]
        name, caption = example["name"], example["caption"]
        if "problem" in example:
            return {"name": name, "problem": example["problem"]}
        if not isinstance(caption, str):
            return {"name": name, "problem": f"the caption is {shown(caption)}; expected text"}
        image = RecordImage(example["image"], "its image")
        return {"name": name, "record": PairRecord(image, caption, self.arguments.min_image_side)}


def read_record(fields: Any, find: FindImage, arguments: RecordSetArguments) -> Record:
    """
    A JSON object as a record of the kind of its set.

    Raises:
        RecordError: it is not of that kind.
    """
    if arguments.kind == "pairs":
        columns = arguments.image_column or "image", arguments.caption_column or "caption"
        return read_pair(fields, find, *columns, arguments.min_image_side)
    if arguments.kind == "conversations":
        return read_conversation(fields, find)
    return read_document(fields, find, instructed=arguments.kind == "instructed_documents")


__all__ = ["CaptionedRecords", "JsonRecords", "ListedRecords", "RecordSet", "read_record"]
