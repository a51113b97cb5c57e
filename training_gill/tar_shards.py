"""Members of tar shards, found by reading headers alone, and read one by one; nothing is ever unpacked."""

import os
import tarfile
from dataclasses import dataclass, field
from typing import IO, Any

from modeling_gill.image_loading_gill import MAX_BYTES, ImageError

MAX_TEXT_BYTES = 16 * 1024 * 1024
# Extended headers hold long names and little else; patterns that tarfile looks for in them take time by the square.
_MAX_HEADER_BYTES = 16 * 1024
_MAX_MEMBERS = 1_000_000
_NO_ARCHIVE = "{path} cannot be read as an uncompressed tar archive ({error}); expected one, as `tar -cf` writes it."
_PRIVATE = ("__MACOSX", "PaxHeader")


class ShardError(ValueError):
    """A file that is no tar archive; the message names it."""


@dataclass(frozen=True)
class TarMember:
    """
    A file inside of a tar archive, by its place.

    Attributes:
        archive, name (`str`): Which file of which archive.
        offset, size (`int`): Its bytes in the archive.
        problem (`str`, *optional*): Why it must not be read.
    """

    archive: str
    name: str
    offset: int
    size: int
    problem: str | None = None

    def read(self, max_bytes: int = MAX_BYTES) -> bytes:
        """
        The bytes of the file.

        Raises:
            ImageError: it is a link, larger than `max_bytes`, or beyond the end of the archive.
        """
        where = f"{self.name!r} in {self.archive}"
        if self.problem is not None:
            raise ImageError(f"{where} {self.problem}")
        if self.size > max_bytes:
            raise ImageError(f"{where} holds {self.size} bytes, more than the limit of {max_bytes}")
        try:
            with open(self.archive, "rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{where} cannot be read: {error}") from error
        if len(content) != self.size:
            raise ImageError(f"{where} is cut off: {len(content)} of its {self.size} bytes are there")
        return content


@dataclass
class TarSample:
    """
    Files of an archive that have the same name up to the first dot (webdataset's samples).

    Attributes:
        key (`str`): That name, with its folders.
        members (`dict[str, TarMember]`): By what follows the dot, in lower case.
        repeated (`list[str]`): Names that come more than once.
    """

    key: str
    members: dict[str, TarMember] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)


@dataclass
class TarIndex:
    """
    What an archive holds.

    Attributes:
        samples (`dict[str, TarSample]`): By their keys, in the order of the archive.
        problem (`str`, *optional*): Why what follows them could not be read.
    """

    samples: dict[str, TarSample] = field(default_factory=dict)
    problem: str | None = None


def index_tar(path: str | os.PathLike[str]) -> TarIndex:
    """
    Read the headers of an uncompressed tar archive.

    Files of one sample need not follow each other. Links, devices, sparse files and pipes are remembered as what cannot
    be read. Names are only names: no file is written, whatever they say.

    Raises:
        ShardError: no such file, or no tar archive. An archive that is cut off or damaged after its beginning gives
            what precedes the damage, with its `problem`.

    Example:

        >>> import io, tarfile
        >>> from training_gill.tar_shards import index_tar
        >>> with tarfile.open("shard.tar", "w") as tar:
        ...     tar.addfile(tarfile.TarInfo("0.txt"), io.BytesIO())
        >>> list(index_tar("shard.tar").samples)
        ['0']
    """
    path = os.fspath(path)
    index = TarIndex()
    size = 0
    try:
        if not os.path.isfile(path):
            raise ShardError(f"{path} is no file; expected a tar archive.")
        size = os.path.getsize(path)
        # "r:" takes no compressed archives: those cannot be read from the middle, and may grow without end.
        with open(path, "rb") as file, tarfile.open(fileobj=_Headers(file), mode="r:") as tar:  # type: ignore[call-overload]
            for number, info in enumerate(tar):
                if number == _MAX_MEMBERS:
                    raise tarfile.ReadError(f"more than {_MAX_MEMBERS:,} files")
                if info.size < 0:  # older versions of Python would go back, and never come to an end
                    raise tarfile.ReadError(f"{info.name!r} has the size {info.size}")
                if _is_data(info):
                    _add(index, path, info, size)
    except ShardError:
        raise
    except Exception as error:  # tarfile raises most of what Python has for a damaged archive
        if not index.samples:
            raise ShardError(_NO_ARCHIVE.format(path=path, error=error)) from error
        last = next(reversed(index.samples))
        index.problem = f"the archive is cut off or damaged after {last!r} ({error})"
    return index


def split_name(name: str) -> tuple[str, str]:
    """A name in an archive as webdataset splits it: up to the first dot of the last part, and what follows.

    Example:

        >>> from training_gill.tar_shards import split_name
        >>> split_name("part/0001.seg.PNG")
        ('part/0001', 'seg.png')
    """
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    before, dot, suffix = extension.rpartition(".")
    return folder + slash + stem, before + dot + suffix.lower()


def check_tar(path: str | os.PathLike[str]) -> None:
    """
    Look at the beginning of a file.

    Raises:
        ShardError: no such file, or no uncompressed tar archive.
    """
    path = os.fspath(path)
    try:
        if not os.path.isfile(path):
            raise ShardError(f"{path} is no file; expected a tar archive.")
        with open(path, "rb") as file:
            header = file.read(tarfile.BLOCKSIZE)
        if len(header) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"{len(header)} bytes")
        if header.strip(b"\0"):  # two empty blocks are an archive without files
            tarfile.TarInfo.frombuf(header, tarfile.ENCODING, "surrogateescape")
    except (tarfile.TarError, OSError) as error:
        raise ShardError(_NO_ARCHIVE.format(path=path, error=error)) from error


def _is_data(info: tarfile.TarInfo) -> bool:
    parts = info.name.split("/")
    return not info.isdir() and not parts[-1].startswith(".") and not any(part in _PRIVATE for part in parts)


def _add(index: TarIndex, path: str, info: tarfile.TarInfo, archive_size: int) -> None:
    key, extension = split_name(info.name)
    problem = None
    if not info.isreg():
        kind = "a link" if info.issym() or info.islnk() else "no regular file"
        problem = f"is {kind}; expected a file"
    elif info.issparse():
        problem = "is a sparse file; expected a plain one"
    elif info.offset_data + info.size > archive_size:
        problem = "is cut off by the end of the archive"
    sample = index.samples.setdefault(key, TarSample(key))
    if extension in sample.members:
        sample.repeated.append(info.name)
    sample.members[extension] = TarMember(path, info.name, info.offset_data, info.size, problem)


class _Headers:
    """A binary file that refuses to read more at once than a header has."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close
        self.name, self.mode = file.name, "rb"

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes, more than the limit of {_MAX_HEADER_BYTES}")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


__all__ = ["MAX_TEXT_BYTES", "ShardError", "TarIndex", "TarMember", "TarSample", "check_tar", "index_tar", "split_name"]
