"""Records of tar shards (webdataset), read shard by shard."""

import json
from bisect import bisect_right
from itertools import accumulate
from typing import Any

import numpy as np

from modeling_gill.image_loading_gill import ImageError
from modeling_gill.image_sources_gill import IMAGE_SUFFIXES

from .arguments import RecordSetArguments
from .record_sets import RecordSet, read_record
from .records import PairRecord, RecordError, RecordImage, shown
from .seeded_random import random_fraction, random_permutation
from .tar_shards import MAX_TEXT_BYTES, ShardError, TarIndex, TarMember, TarSample, check_tar, index_tar, split_name
from .training_data import DataError

# The usual ones first: of a sample with several images, the first of these counts.
_IMAGE_EXTENSIONS = tuple(dict.fromkeys(["jpg", "png", "jpeg", *sorted(suffix[1:] for suffix in IMAGE_SUFFIXES)]))
_EXPECTED = {
    "pairs": "KEY.jpg with KEY.txt, or with KEY.json that has a caption",
    "documents": "KEY.json with `text_list` and `image_info`",
    "instructed_documents": "KEY.json with `instruction`, `text_list` and `image_info`",
    "conversations": "KEY.json with `conversations`",
}


class TarRecords(RecordSet):
    """
    Records of tar shards.

    The headers of a shard are read when the first of its records is due, and a file when its record is used. Shards
    that follow each other in a pass are taken together until they have `window` records, and these are shuffled. Which
    record an ordinal means depends on the seed alone.

    Args:
        shards (`list[str]`): Paths of the archives.
        arguments ([`RecordSetArguments`]): Of the set.
        seed (`int`, *optional*): Shuffles shards and records; without it the order is that of the shards.
        purpose (`str`): What tells its random numbers from those of other sets.
        window (`int`): Records that are shuffled among each other.

    Raises:
        DataError: a file that is not there or no archive. Later: no shard has a record.
    """

    def __init__(
        self, shards: list[str], arguments: RecordSetArguments, seed: int | None, purpose: str, window: int = 10_000
    ) -> None:
        self.shards, self.arguments = shards, arguments
        self.name = shards[0] if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
        self._seed, self._purpose = seed, purpose
        self._window_size = window if seed is not None else 1
        self._counts: dict[int, int] = {}
        self._indexes: dict[int, tuple[TarIndex, list[TarSample]]] = {}
        # Of each window so far and of the next: its first ordinal, and its first shard in the order of the draws.
        self._first_ordinals, self._first_draws = [0], [0]
        self._window: _Window | None = None
        self._pass: tuple[int, np.ndarray] | None = None
        try:
            for shard in shards:
                check_tar(shard)
        except ShardError as error:
            raise DataError(str(error)) from error

    def __len__(self) -> int:
        total = 0
        for shard in range(len(self.shards)):
            total += self._count(shard)
            self._indexes.clear()
        return total

    def example(self, ordinal: int) -> dict[str, Any]:
        while self._first_ordinals[-1] <= ordinal:
            self._add_window()
        number = bisect_right(self._first_ordinals, ordinal) - 1
        if self._window is None or self._window.number != number:
            self._window = self._enter(number)
        shard, place = self._window.record(ordinal - self._first_ordinals[number])
        index, samples = self._open(shard)
        example = self._example(self.shards[shard], index, samples[place])
        if index.problem is not None and place == len(samples) - 1:
            example["notes"] = [f"{self.shards[shard]}: {index.problem}"]
        return example

    # --- shards ------------------------------------------------------------------------------------------------------

    def _add_window(self) -> None:
        size, draw = 0, self._first_draws[-1]
        self._indexes.clear()
        while size < self._window_size:
            size += self._count(self._shard(draw))
            draw += 1
            if not size and len(self._counts) == len(self.shards) and not any(self._counts.values()):
                kind = self.arguments.kind
                raise DataError(f"{self.name} holds no {kind.replace('_', ' ')}; expected {_EXPECTED[kind]}.")
            # A pass is over before any of its records comes again.
            if draw % len(self.shards) == 0 and self.arguments.shard_order != "with_replacement":
                break
        self._first_ordinals.append(self._first_ordinals[-1] + size)
        self._first_draws.append(draw)

    def _enter(self, number: int) -> "_Window":
        shards = [self._shard(draw) for draw in range(*self._first_draws[number : number + 2])]
        self._indexes = {shard: index for shard, index in self._indexes.items() if shard in shards}
        starts = list(accumulate((self._counts[shard] for shard in shards), initial=0))
        order = None
        if self._seed is not None:
            order = random_permutation(starts[-1], self._seed, [number], f"{self._purpose} window")
        return _Window(number, shards, starts, order)

    def _shard(self, draw: int) -> int:
        """Which shard is the one of a draw."""
        turn, place = divmod(draw, len(self.shards))
        if self._seed is None or self.arguments.shard_order == "in_order":
            return place
        if self.arguments.shard_order == "with_replacement":
            return int(random_fraction(self._seed, [draw], f"{self._purpose} shard") * len(self.shards))
        if self._pass is None or self._pass[0] != turn:
            self._pass = turn, random_permutation(len(self.shards), self._seed, [turn], f"{self._purpose} shards")
        return int(self._pass[1][place])

    def _count(self, shard: int) -> int:
        if shard not in self._counts:
            self._open(shard)
        return self._counts[shard]

    def _open(self, shard: int) -> tuple[TarIndex, list[TarSample]]:
        if shard not in self._indexes:
            try:
                index = index_tar(self.shards[shard])
            except ShardError as error:
                raise DataError(str(error)) from error
            samples = [sample for sample in index.samples.values() if self._is_record(sample)]
            if self._counts.setdefault(shard, len(samples)) != len(samples):
                raise DataError(f"{self.shards[shard]} has been changed while it was read.")
            self._indexes[shard] = index, samples
        return self._indexes[shard]

    # --- records -----------------------------------------------------------------------------------------------------

    def _is_record(self, sample: TarSample) -> bool:
        if self.arguments.kind != "pairs":
            return "json" in sample.members
        return any(extension in sample.members for extension in ("txt", "json", *_IMAGE_EXTENSIONS))

    def _example(self, shard: str, index: TarIndex, sample: TarSample) -> dict[str, Any]:
        name = f"{shard}, {sample.key}"
        try:
            if sample.repeated:
                raise RecordError(f"the archive holds {sample.repeated[0]!r} several times; expected one")
            if self.arguments.kind == "pairs":
                return {"name": name, "record": self._pair(sample)}

            def find(image: str) -> TarMember:
                return _find_beside(index, sample, image)

            return {"name": name, "record": read_record(_read_json(sample.members["json"]), find, self.arguments)}
        except (RecordError, ImageError) as error:
            return {"name": name, "problem": str(error)}

    def _pair(self, sample: TarSample) -> PairRecord:
        image = _image_of(sample)
        if image is None:
            raise RecordError(f"it has {sorted(sample.members)}, but no image; expected a .jpg, .png or .jpeg")
        column = self.arguments.caption_column
        if "txt" in sample.members and column is None:
            # The line end belongs to the file.
            caption = _read_text(sample.members["txt"]).rstrip("\r\n")
        elif "json" in sample.members:
            fields, column = _read_json(sample.members["json"]), column or "caption"
            found = fields.get(column) if isinstance(fields, dict) else None
            if not isinstance(found, str):
                raise RecordError(f"`{column}` of {sample.members['json'].name!r} is {shown(found)}; expected text")
            caption = found
        else:
            raise RecordError(f"it has {sorted(sample.members)}, but no caption; expected a .txt or .json")
        return PairRecord(RecordImage(image, "its image"), caption, self.arguments.min_image_side)


class _Window:
    """Shards that are shuffled together: `record` gives the shard of a place, and the number of the record in it."""

    def __init__(self, number: int, shards: list[int], starts: list[int], order: np.ndarray | None) -> None:
        self.number, self._shards, self._starts, self._order = number, shards, starts, order

    def record(self, place: int) -> tuple[int, int]:
        if self._order is not None:
            place = int(self._order[place])
        at = bisect_right(self._starts, place) - 1
        return self._shards[at], place - self._starts[at]


def _image_of(sample: TarSample | None, prefix: str = "") -> TarMember | None:
    members = {} if sample is None else sample.members
    names = (prefix + extension for extension in _IMAGE_EXTENSIONS)
    return next((members[name] for name in names if name in members), None)


def _find_beside(index: TarIndex, sample: TarSample, image: str) -> TarMember:
    """
    The image of a document in its archive: `KEY.STEM.jpg`, `STEM.jpg` beside it, or in a folder that is named as it.

    The suffix of the name does not count: images were often stored in another format than the document says.
    """
    folder, slash, _ = sample.key.rpartition("/")
    stem, path = split_name(image.rpartition("/")[2])[0], split_name(image)[0]
    found = _image_of(sample, f"{stem}.")
    for key in (folder + slash + path, folder + slash + stem, f"{sample.key}/{stem}"):
        beside = index.samples.get(key)
        if found is None and beside is not sample:
            found = _image_of(beside)
            if found is not None and beside is not None and beside.repeated:
                return TarMember(found.archive, found.name, 0, 0, "comes several times in the archive; expected one")
    archive = sample.members["json"].archive
    return found or TarMember(archive, f"{stem}.jpg", 0, 0, "is not there; expected it beside its document")


def _read_text(member: TarMember) -> str:
    try:
        return member.read(MAX_TEXT_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordError(f"{member.name!r} is no UTF-8 ({error.reason})") from error


def _read_json(member: TarMember) -> Any:
    try:
        return json.loads(_read_text(member))
    except RecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{member.name!r} is no JSON ({error})") from error


__all__ = ["TarRecords"]
