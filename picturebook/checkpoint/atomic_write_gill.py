"""Replace a folder or a file so that a reader finds the old one or the new one, whole, whenever the writer is killed.

Everything is written beside the target, under a hidden name, and flushed to the disk. Then the new folder and the old
one change places in one step of the file system: `renameat2(RENAME_EXCHANGE)` on Linux, `renamex_np(RENAME_SWAP)` on
macOS, `os.replace` for a file everywhere. Hidden files next to the target, for a target `gill`:

.gill.lock           held by the writer; a second writer waits for it, and is refused in the end
.gill.writing-XXXX   what is being written, then what was replaced; the next writer removes what a killed one left
.gill.replaced       the old folder, for a moment, where the system cannot exchange two folders (Windows, some network
                     file systems). A writer that is killed in this moment leaves no folder; the next one moves it back.

A folder that cannot be exchanged (a mount point such as a volume of Docker, one in a folder that is not writable, the
working directory) is changed file by file: its `*.json` files go first and come last, so that a mixture of old and new
does not load.
"""

import ctypes
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

LOCK_TIMEOUT_S = 30.0

Keep = Collection[str] | Callable[[str], bool]

_WRITING = ".writing-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2
_CANNOT_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_CANNOT_RENAME = {errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def replace_folder(folder: str | os.PathLike[str], *, keep: Keep = (), timeout: float | None = None) -> Iterator[Path]:
    """Write a folder that takes the place of `folder` in one step if all goes well; else `folder` stays as it was.

    Args:
        folder (`str` or `os.PathLike`):
            The folder to replace or to create, parents included. Of a symbolic link, what it points to is replaced.
        keep (`Collection[str]` or `Callable[[str], bool]`, defaults to `()`):
            What of the old folder stays unless it is written anew: names or patterns of files and folders such as
            `"checkpoint-*"`, or a function of a file's name (relative, with `/`). The files are linked into the new
            folder before it takes its place, so that they are there at every instant.
        timeout (`float`, *optional*, defaults to 30):
            Seconds to wait for another writer of the same folder.

    Yields:
        `Path`: A new, empty folder to write to.

    Raises:
        NotADirectoryError: `folder` is a file.
        BlockingIOError: another writer is still writing the folder.
        OSError: no space left, no permission and so on; the old folder stays as it was.

    Example:

    ```python
    >>> from modeling_gill.atomic_write_gill import replace_folder

    >>> with replace_folder("my_model", keep=["checkpoint-*"]) as folder:
    ...     _ = (folder / "config.json").write_text("{}")
    ```
    """
    target = Path(os.path.realpath(folder))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{str(target)!r} is a file, expected a folder or nothing.")
    kept = _predicate(keep)
    with _writer(target, timeout) as new:
        new.mkdir()
        yield new
        if not new.is_dir():
            raise FileNotFoundError(f"{str(new)!r}, the folder to write to, was moved or removed.")
        _finish_folder(new)
        linked = _link_kept(target, new, kept) if target.exists() else {}
        _put_in_place(new, target, kept)
        _bring_late_files(new, target, kept, linked)


@contextmanager
def replace_file(path: str | os.PathLike[str], *, timeout: float | None = None) -> Iterator[Path]:
    """Write a file that takes the place of `path` in one step if all goes well; else `path` stays as it was.

    Args:
        path (`str` or `os.PathLike`):
            The file to replace or to create, parents included. Of a symbolic link, what it points to is replaced.
        timeout (`float`, *optional*, defaults to 30): Seconds to wait for another writer of the same file.

    Yields:
        `Path`: A path with the same suffix that does not exist yet, to write to.

    Raises:
        IsADirectoryError: `path` is a folder.
        BlockingIOError: another writer is still writing the file.
        OSError: no space left, no permission and so on; the old file stays as it was.

    Example:

    ```python
    >>> from modeling_gill.atomic_write_gill import replace_file

    >>> with replace_file("results.json") as path:
    ...     _ = path.write_text("{}")
    ```
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{str(target)!r} is a folder, expected a file or nothing.")
    with _writer(target, timeout) as new:
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else _mode_of_new_files(new)
        yield new
        if not new.is_file():
            raise FileNotFoundError(f"{str(new)!r}, the file to write to, was not written.")
        _set_mode(new, mode)
        _flush(new)
        try:
            os.replace(new, target)
        except OSError as error:
            if error.errno not in _CANNOT_RENAME or not target.exists():
                raise
            shutil.copyfile(new, target)  # a mount point
        _flush(target.parent)


@contextmanager
def _writer(target: Path, timeout: float | None) -> Iterator[Path]:
    """Be the only writer of `target`, after what killed writers left is cleaned up, and yield a free path beside it."""
    place = target.parent
    place.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and _cannot_be_exchanged(target):
        place = target
    hidden = f".{target.name}{_WRITING}"
    timeout = LOCK_TIMEOUT_S if timeout is None else timeout
    lock = FileLock(place / f".{target.name}.lock", timeout=timeout)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            errno.EAGAIN, f"Another process has been writing for {timeout:g} s, try again when it is done", str(target)
        ) from error
    try:
        _recover(target, place, hidden)
        new = place / f"{hidden}{secrets.token_hex(4)}{target.suffix}"
        try:
            yield new
        finally:
            _remove(new)
    finally:
        # While it is held: whoever waits for it notices that the file is gone, and makes a new one.
        _remove(Path(lock.lock_file))
        lock.release()


def _recover(target: Path, place: Path, hidden: str) -> None:
    """Undo what a killed writer of `target` left. The caller holds the lock, so that nobody is writing."""
    replaced = place / f".{target.name}.replaced"
    if replaced.exists():
        if target.exists():
            _remove(replaced)
        else:
            os.rename(replaced, target)
    for entry in os.listdir(place):
        if entry.startswith(hidden):
            _remove(place / entry)


def _put_in_place(new: Path, target: Path, kept: Callable[[str], bool]) -> None:
    """Let `new` take the place of the folder `target`; the old one is at `new` afterwards, if it is anywhere."""
    try:
        if new.parent == target:
            _replace_file_by_file(new, target, kept)
        elif not target.exists():
            os.rename(new, target)
        else:
            try:
                _exchange(new, target)
            except OSError as error:
                if error.errno not in _CANNOT_EXCHANGE:
                    raise
                _exchange_in_two_steps(new, target)
    except OSError as error:
        if error.errno not in _CANNOT_RENAME or not target.is_dir():
            raise
        _replace_file_by_file(new, target, kept)
    _flush(target.parent)


def _cannot_be_exchanged(folder: Path) -> bool:
    working = Path(os.path.realpath(os.curdir))
    return (
        _WRITING in folder.name  # another writer's, who cleans up what is in it
        or os.path.ismount(folder)
        or not os.access(folder.parent, os.W_OK | os.X_OK)
        or folder in (working, *working.parents)  # whoever works in it would be left in a folder that is removed
    )


def _exchange(first: Path, second: Path) -> None:
    """Let two paths change places in one step.

    Raises:
        OSError: with `errno.ENOSYS` or `errno.EINVAL` where system or file system cannot.
    """
    library: Any = ctypes.CDLL(None, use_errno=True) if sys.platform in ("linux", "darwin") else None
    names = os.fsencode(first), os.fsencode(second)
    if hasattr(library, "renameat2"):
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    elif hasattr(library, "renamex_np"):
        failed = library.renamex_np(names[0], names[1], ctypes.c_uint(_RENAME_SWAP))
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))


def _exchange_in_two_steps(new: Path, target: Path) -> None:
    replaced = target.with_name(f".{target.name}.replaced")
    os.rename(target, replaced)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(replaced, target)
        raise
    os.rename(replaced, new)


def _replace_file_by_file(new: Path, target: Path, kept: Callable[[str], bool]) -> None:
    written = _files(new)
    own = {target / f".{target.name}.lock", new}
    stale = [name for name in _files(target, without=own) if name not in written and not kept(name)]

    def is_manifest(name: str) -> bool:
        return name.endswith(".json") and "/" not in name

    # What makes the folder load goes first and comes last.
    for name in filter(is_manifest, [*written, *stale]):
        (target / name).unlink(missing_ok=True)
    for name in stale:
        (target / name).unlink(missing_ok=True)
    for name in sorted(written, key=is_manifest):
        place = target / name
        if place.is_dir() and not place.is_symlink():
            _remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, place)
    for parent, _, _ in os.walk(target, topdown=False):
        if Path(parent) not in (target, new) and not os.listdir(parent):
            os.rmdir(parent)


def _link_kept(target: Path, new: Path, kept: Callable[[str], bool]) -> dict[str, tuple[int, int]]:
    """Link the kept files of the old folder into the new one. Returns their names and identities."""
    linked = {}
    for name in _files(target):
        place = new / name
        if not kept(name) or os.path.lexists(place) or not _can_be_made(place.parent, new):
            continue
        for parent in reversed(place.relative_to(new).parents[:-1]):
            if not (new / parent).exists():
                (new / parent).mkdir()
                shutil.copystat(target / parent, new / parent)
        try:
            os.link(target / name, place, follow_symlinks=False)
        except (OSError, NotImplementedError):  # a file system without links, another user's file
            shutil.copy2(target / name, place, follow_symlinks=False)
        linked[name] = _identity(target / name)
    # The folder of people who share it by a group stays theirs.
    shutil.copymode(target, new)
    return linked


def _bring_late_files(old: Path, target: Path, kept: Callable[[str], bool], linked: dict[str, tuple[int, int]]) -> None:
    """Move kept files over that another process wrote to the old folder after the others were linked."""
    if not old.is_dir():
        return
    for name in _files(old):
        late = name not in linked or _identity(old / name) != linked[name]
        place = target / name
        if (
            late
            and kept(name)
            and (name in linked or not os.path.lexists(place))
            and _can_be_made(place.parent, target)
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(old / name, place)


def _finish_folder(new: Path) -> None:
    """Give everything in a folder the mode that the umask asks for, which libraries often do not, and flush it."""
    allowed = stat.S_IMODE(new.stat().st_mode) & 0o777
    for parent, _, names in os.walk(new, topdown=False):
        for name in names:
            path = Path(parent, name)
            if not path.is_symlink():
                _set_mode(path, stat.S_IMODE(path.stat().st_mode) | (allowed & 0o666))
                _flush(path)
        _set_mode(Path(parent), stat.S_IMODE(os.stat(parent).st_mode) | allowed)
        _flush(Path(parent))


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        os.chmod(path, mode)


def _mode_of_new_files(path: Path) -> int:
    # The umask cannot be read without changing it for all threads.
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
        os.unlink(path)


def _flush(path: Path) -> None:
    """Wait until a file or folder is on the disk. Only then may it replace another: no power failure loses both."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:  # some file systems cannot flush folders
            raise
    finally:
        os.close(handle)


def _files(folder: Path, without: Collection[Path] = ()) -> list[str]:
    """Names of all files and symbolic links in a folder and below it; symbolic links are not followed."""
    names = []
    for parent, folders, files in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        folders[:] = [name for name in folders if name not in linked and Path(parent, name) not in without]
        names += [Path(parent, name) for name in (*linked, *files) if Path(parent, name) not in without]
    return sorted(path.relative_to(folder).as_posix() for path in names)


def _predicate(keep: Keep) -> Callable[[str], bool]:
    if callable(keep):
        return keep
    patterns = [keep] if isinstance(keep, str) else [pattern.rstrip("/") for pattern in keep]

    def kept(name: str) -> bool:
        path = PurePosixPath(name)
        names = [name, *map(str, path.parents)]
        return any(fnmatchcase(item, pattern) for item in names for pattern in patterns)

    return kept


def _can_be_made(folder: Path, root: Path) -> bool:
    """Whether all of `folder` below `root` is a folder or nothing yet."""
    parents = [folder, *folder.parents]
    return all(path.is_dir() or not os.path.lexists(path) for path in parents[: parents.index(root)])


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


__all__ = ["LOCK_TIMEOUT_S", "replace_file", "replace_folder"]
