"""Mixtures of sets of records: laid end to end with a size each, shuffled, and the same for any number of processes."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from .arguments import RecordSetArguments
from .callbacks import SeededOrder
from .json_lists import JsonList, JsonListError
from .record_sets import CaptionedRecords, JsonRecords, RecordSet, read_record
from .records import RecordError, RecordFormError, inside_folder, shown
from .seeded_random import shuffle
from .tar_records import TarRecords
from .training_data import CaptionedImages, DataError, open_data

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 1_000_000
# Places of an order between which the examples of each set are counted.
_BLOCK = 4096


class RecordMixture(Dataset):
    """
    Sets of records with a size each, in an order that depends on `seed` alone.

    An index counts on through the epochs: `index // len(mixture)` is the epoch. In each epoch every set gives as many
    examples as its size says, at random places, and goes on where it was in the epoch before; a set that is smaller
    than its size begins again. Growing indices read shards from their beginning to their end, also where a process or
    worker takes only some of them and where a resumed run leaves the first ones out. Sampled with [`MixtureOrder`], the
    steps of a run are the same for any number of processes and workers.

    Args:
        sets: Sets with their sizes and directions.
        seed (`int`, *optional*): Shuffles; without it, all examples of the first set come first.

    Raises:
        ValueError: no set, or a size below 1.

    Example:

        >>> from training_gill.arguments import RecordSetArguments
        >>> from training_gill.record_mixture import open_mixture
        >>> text = '[{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}]'
        >>> _ = open("chats.json", "w").write(text)
        >>> mixture = open_mixture([RecordSetArguments("conversations", "chats.json", size=3)], seed=0)
        >>> len(mixture), mixture[2]["record"].turns[1].text
        (3, 'hello')
    """

    def __init__(self, sets: Sequence[tuple[RecordSet, int, str]], seed: int | None) -> None:
        if not sets or any(size < 1 for _, size, _ in sets):
            raise ValueError(f"A mixture needs sets with sizes of 1 or more, got {[size for _, size, _ in sets]}.")
        self.sets, self.seed = list(sets), seed
        self.name = ", ".join(records.name for records, _, _ in sets)
        self._size = sum(size for _, size, _ in sets)
        self._epoch: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`index`, `name`, `direction` and `record` of an example, see [`RecordCollator`]."""
        epoch, place = divmod(int(index), self._size)
        number, before = self._place(epoch, place)
        records, size, direction = self.sets[number]
        return {"index": int(index), "direction": direction, **records.example(epoch * size + before)}

    def _place(self, epoch: int, place: int) -> tuple[int, int]:
        """The set of a place of an epoch, and how many of its examples precede it."""
        if self._epoch is None or self._epoch[0] != epoch:
            sizes = [size for _, size, _ in self.sets]
            order = np.repeat(np.arange(len(sizes), dtype=np.min_scalar_type(len(sizes))), sizes)
            if self.seed is not None:
                shuffle(order, self.seed, [epoch], "mixture")
            blocks = (order[first : first + _BLOCK] for first in range(0, len(order), _BLOCK))
            counts = [np.bincount(block, minlength=len(sizes)) for block in blocks]
            self._epoch = epoch, order, np.cumsum([np.zeros(len(sizes), dtype=np.int64), *counts], axis=0)
        _, order, preceding = self._epoch
        number = int(order[place])
        first = place // _BLOCK * _BLOCK
        within = int((order[first:place] == number).sum())
        return number, int(preceding[place // _BLOCK, number]) + within


class MixtureOrder(SeededOrder):
    """The indices of an epoch of a [`RecordMixture`], which is in random order itself."""

    def __init__(self, data: RecordMixture) -> None:
        super().__init__(data, data.seed or 0)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.epoch * self.size, (self.epoch + 1) * self.size))


def open_mixture(sets: Sequence[RecordSetArguments], seed: int | None, window: int = 10_000) -> RecordMixture:
    """
    Open the sets of a mixture.

    Args:
        sets: What `train_data` or `validation_data` of a recipe lists.
        seed (`int`, *optional*): Shuffles; without it everything keeps its order.
        window (`int`): Records of tar shards that are shuffled among each other.

    Raises:
        DataError: a file that is not there or not of its set's kind; the message names the file, the record and what
            was expected.
    """
    opened = []
    for number, arguments in enumerate(sets):
        records = open_record_set(arguments, seed, f"set {number}", window)
        size = len(records) if arguments.size is None else arguments.size
        if not size:
            raise DataError(f"{records.name} holds no records; expected {arguments.kind.replace('_', ' ')}.")
        opened.append((records, size, arguments.direction))
    return RecordMixture(opened, seed)


def open_record_set(arguments: RecordSetArguments, seed: int | None, purpose: str, window: int = 10_000) -> RecordSet:
    """
    Open a set of records by what its files are; see [`open_mixture`].

    Args:
        purpose (`str`): What tells its random numbers from those of other sets.
    """
    names = [arguments.files] if isinstance(arguments.files, str) else arguments.files
    files = [file for name in names for file in expand_files(name)]
    suffixes = {os.path.splitext(file)[1].lower() for file in files}
    if suffixes == {".json"}:
        shards = [_listed_shards(file) for file in files]
        if not any(shards):
            return _open_json(arguments, files, seed, purpose)
        if not all(shards):
            raise DataError(f"`files` names lists of shards and of records: {shown(files)}; expected one or the other.")
        files, suffixes = [shard for listed in shards for shard in listed or ()], {".tar"}
    if suffixes == {".tar"}:
        return TarRecords(files, arguments, seed, purpose, window)
    if arguments.kind == "pairs" and len(files) == 1:
        data = open_data(
            files[0], arguments.split, arguments.image_folder, arguments.image_column, arguments.caption_column
        )
        assert isinstance(data, CaptionedImages)
        return CaptionedRecords([data], arguments, data.name, seed, purpose)
    also = ", or one .tsv, folder or data set of the Hub" if arguments.kind == "pairs" else ""
    raise DataError(
        f"`files` of a set of {arguments.kind.replace('_', ' ')} names {shown(files)}; expected .tar shards, a .json "
        f"list of them, or .json lists of records{also}."
    )


def expand_files(name: str) -> list[str]:
    """
    The files that a name means: itself, those of `{000..999}`, or those that match a pattern, sorted.

    Raises:
        DataError: a URL, a pattern that nothing matches, or too many files.

    Example:

        >>> from training_gill.record_mixture import expand_files
        >>> expand_files("shards/{008..010}.tar")
        ['shards/008.tar', 'shards/009.tar', 'shards/010.tar']
    """
    if "://" in name:
        raise DataError(f"`files` names {name!r}; expected files of this machine, which are read in pieces.")
    if os.path.exists(name):
        return [name]
    literals, ranges = _RANGE.split(name)[::3], _RANGE.findall(name)
    sizes = [int(last) - int(first) + 1 for first, last in ranges]
    if any(size < 1 for size in sizes) or np.prod(sizes, dtype=float) > _MAX_FILES:
        raise DataError(f"`files` names {name!r}; expected 1 to {_MAX_FILES:,} files, as in {{000..999}}.")
    numbers = [[f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)] for first, last in ranges]
    found = []
    for chosen in product(*numbers):
        expanded = "".join(part for pair in zip(literals, (*chosen, ""), strict=True) for part in pair)
        matching = sorted(glob.glob(expanded)) if glob.has_magic(expanded) else [expanded]
        if not matching:
            raise DataError(f"No file is named {expanded!r}; expected one or several.")
        found += matching
    return found


def _listed_shards(path: str) -> list[str] | None:
    """Shards that a JSON list names, relative to its folder; `None` for a list of records."""
    with _named_errors(path), open(path, "rb") as file:
        beginning = file.read(256)
    if not re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\"", beginning):
        return None
    with _named_errors(path):
        names = JsonList(path, _check_shard_name)
        return [os.path.join(os.path.dirname(path), names[number]) for number in range(len(names))]


def _check_shard_name(name: Any) -> None:
    if not isinstance(name, str) or not name.endswith(".tar") or "://" in name:
        raise ValueError(f"{shown(name)}; expected the path of a .tar shard, as before it.")


def _open_json(arguments: RecordSetArguments, files: list[str], seed: int | None, purpose: str) -> RecordSet:
    if arguments.image_folder is not None and not os.path.isdir(arguments.image_folder):
        raise DataError(f"The image folder {arguments.image_folder!r} of {files[0]!r} is not there.")

    def check(record: Any) -> None:
        try:
            read_record(record, inside_folder, arguments)
        except RecordFormError:
            raise
        except RecordError:
            pass  # left out when its turn comes, as what is found out about others only then

    lists = []
    for file in files:
        with _named_errors(file):
            lists.append(JsonList(file, check))
    name = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return JsonRecords(lists, arguments, name, seed, purpose)


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    try:
        yield
    except JsonListError as error:
        raise DataError(str(error)) from error
    except OSError as error:
        raise DataError(f"{path!r} cannot be read: {error.strerror or error}") from error


__all__ = ["MixtureOrder", "RecordMixture", "expand_files", "open_mixture", "open_record_set"]
