"""Whoever reads a folder or a file that is being replaced finds the old one or the new one, whole."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modeling_gill import atomic_write_gill
from modeling_gill.atomic_write_gill import replace_file, replace_folder
from tests.examples import run_example
from tests.killing import killed_at_every_file_operation

KEPT = {"README.md": "mine", "checkpoint-5/state": "5", "checkpoint-5/deep/weights": "w"}
OLD = {"config.json": "old", "model-1": "old", "model-2": "old", **KEPT}
NEW = {"config.json": "new", "model": "new", "part/weights": "new"}
KEEP = ("README.md", "checkpoint-*")


# Killed before every operation, or before every fifth and each of those that put what was written in its place.
SPARSE_OR_ALL = pytest.mark.parametrize(
    "operations", [{"sparse": 5, "dense": 40}, pytest.param({}, marks=pytest.mark.slow)], ids=["sparse", "all"]
)


def fill(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def content(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_new(folder: Path, **options: Any) -> None:
    with replace_folder(folder, **options) as new:
        fill(new, NEW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "out", OLD)
    return tmp_path / "out"


@pytest.fixture(params=["exchange", "two steps"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system that can exchange two folders, and one that cannot."""
    if request.param == "two steps":
        refuse(monkeypatch, errno.EINVAL)
    return request.param


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def exchange(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic_write_gill, "_exchange", exchange)


@pytest.mark.usefixtures("system")
def test_a_folder_is_replaced_but_for_what_is_kept(folder: Path) -> None:
    write_new(folder, keep=KEEP)
    assert content(folder) == {**NEW, **KEPT}
    write_new(folder)
    assert content(folder) == NEW
    assert os.listdir(folder.parent) == ["out"]


def test_what_is_written_anew_is_not_kept_and_folders_of_both_are_joined(folder: Path) -> None:
    with replace_folder(folder, keep=lambda name: name != "config.json") as new:
        fill(new, {"README.md": "other", "checkpoint-5/state": "6", "model-1/x": "a folder now"})
    expected = {"README.md": "other", "checkpoint-5/state": "6", "checkpoint-5/deep/weights": "w", "model-2": "old"}
    assert content(folder) == {**expected, "model-1/x": "a folder now"}


def test_a_new_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    with replace_folder(tmp_path / "a/b/out") as new:
        fill(new, NEW)
        assert not (tmp_path / "a/b/out").exists()
    assert content(tmp_path / "a/b/out") == NEW and os.listdir(tmp_path / "a/b") == ["out"]


def test_a_writer_within_a_writer_leaves_nothing_either(folder: Path) -> None:
    def write() -> None:
        with replace_folder(folder, keep=KEEP) as outer:
            write_new(outer)
            write_new(outer / "inner")

    for number in killed_at_every_file_operation(write, sparse=7, dense=20):
        with replace_folder(folder, keep=KEEP) as new:
            fill(new, OLD)
        assert os.listdir(folder.parent) == ["out"], f"operation {number}"
    write()
    assert content(folder) == {**NEW, **KEPT, **{f"inner/{name}": text for name, text in NEW.items()}}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_folder_and_nothing_else(folder: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), replace_folder(folder, keep=KEEP) as new:
        fill(new, {"config.json": "half"})
        raise error
    assert content(folder) == OLD and os.listdir(folder.parent) == ["out"]


@pytest.mark.parametrize("operation", ["fsync", "link", "rename"])
def test_no_space_at_the_very_end_leaves_the_old_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, operation, full)
    monkeypatch.setattr("shutil.copy2", full)
    if operation == "rename":
        refuse(monkeypatch, errno.EINVAL)
    with pytest.raises(OSError, match="No space"):
        write_new(folder, keep=KEEP)
    assert content(folder) == OLD and os.listdir(folder.parent) == ["out"]


def test_killed_at_any_instant_a_reader_finds_the_old_folder_or_the_new_one(folder: Path) -> None:
    found = []
    for number in killed_at_every_file_operation(lambda: write_new(folder, keep=KEEP)):
        now = content(folder)
        assert now in (OLD, {**NEW, **KEPT}), f"operation {number}"
        found.append(now == OLD)
        write_new(folder, keep=KEEP)  # cleans up
        assert content(folder) == {**NEW, **KEPT} and os.listdir(folder.parent) == ["out"]
        with replace_folder(folder) as new:
            fill(new, OLD)
    assert len(found) > 40 and found[1:] == sorted(found[1:], reverse=True) and len(set(found)) == 2


@SPARSE_OR_ALL
def test_where_folders_cannot_be_exchanged_the_next_writer_moves_the_old_one_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, operations: dict[str, int]
) -> None:
    refuse(monkeypatch, errno.EINVAL)
    absent = 0
    for number in killed_at_every_file_operation(lambda: write_new(folder, keep=KEEP), **operations):
        absent += not folder.exists()
        with pytest.raises(RuntimeError), replace_folder(folder):
            raise RuntimeError
        assert content(folder) in (OLD, {**NEW, **KEPT}), f"operation {number}"
        assert os.listdir(folder.parent) == ["out"]
        with replace_folder(folder) as new:
            fill(new, OLD)
    assert absent == 1


@SPARSE_OR_ALL
def test_a_folder_that_cannot_be_renamed_never_loads_as_a_mixture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, operations: dict[str, int]
) -> None:
    """A mount point: `config.json` is there only if all that belongs to it is."""
    refuse(monkeypatch, errno.EBUSY)
    for number in killed_at_every_file_operation(lambda: write_new(folder, keep=KEEP), **operations):
        now = content(folder)
        assert KEPT.items() <= now.items()
        assert now.get("config.json") != "old" or now == OLD, f"operation {number}"
        assert now.get("config.json") != "new" or now == {**NEW, **KEPT}, f"operation {number}"
        write_new(folder, keep=KEEP)
        assert content(folder) == {**NEW, **KEPT} and os.listdir(folder.parent) == ["out"]
        with replace_folder(folder) as new:
            fill(new, OLD)


def test_the_working_directory_stays_the_one_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = folder.stat().st_ino
    write_new(Path("."), keep=KEEP)
    assert content(folder) == {**NEW, **KEPT} and folder.stat().st_ino == before
    assert {path.name for path in Path(".").iterdir()} == {name.split("/")[0] for name in {**NEW, **KEPT}}


@pytest.mark.usefixtures("system")
def test_what_another_process_writes_into_a_kept_folder_meanwhile_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ranks of a training write the states of their random generators while the first saves the model."""
    put_in_place = atomic_write_gill._put_in_place

    def others_write_first(*arguments: Any) -> None:
        (folder / "checkpoint-5/rng_state_1").write_text("late")
        (folder / "checkpoint-5/beside").write_text("replaced late")
        os.replace(folder / "checkpoint-5/beside", folder / "checkpoint-5/state")
        put_in_place(*arguments)

    monkeypatch.setattr(atomic_write_gill, "_put_in_place", others_write_first)
    write_new(folder, keep=KEEP)
    late = {"checkpoint-5/rng_state_1": "late", "checkpoint-5/state": "replaced late"}
    assert content(folder) == {**NEW, **KEPT, **late}


def test_kept_files_are_copied_where_they_cannot_be_linked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", cannot_link)
    write_new(folder, keep=KEEP)
    assert content(folder) == {**NEW, **KEPT}


def test_symbolic_links_are_followed_to_what_is_replaced_and_kept_as_links(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "dangling").symlink_to("later")
    (folder / "checkpoint-5/latest").symlink_to("state")
    write_new(tmp_path / "link", keep=KEEP)
    write_new(tmp_path / "dangling")
    assert (tmp_path / "link").is_symlink() and content(folder) == {**NEW, **KEPT, "checkpoint-5/latest": "5"}
    assert os.readlink(folder / "checkpoint-5/latest") == "state"
    assert (tmp_path / "dangling").is_symlink() and content(tmp_path / "later") == NEW


def test_targets_of_the_other_kind_are_refused(folder: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"README\.md"), replace_folder(folder / "README.md"):
        pass
    with pytest.raises(OSError, match="README"), replace_folder(folder / "README.md/deeper"):
        pass
    with pytest.raises(IsADirectoryError, match="out"), replace_file(folder):
        pass
    assert content(folder) == OLD


@pytest.mark.parametrize("function", [replace_folder, replace_file])
def test_the_examples_run(function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_example(function)
    assert len(os.listdir(tmp_path)) == 1


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Any:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


def test_files_have_the_mode_that_the_umask_asks_for_whatever_a_library_wrote(tmp_path: Path, umask: int) -> None:
    def write(path: Path) -> None:
        path.write_text("")
        path.chmod(0o600)

    with replace_folder(tmp_path / "out") as new:
        (new / "part").mkdir(mode=0o700)
        write(new / "model.safetensors")
        write(new / "part/weights")
        (new / "run.sh").touch(mode=0o777)
    with replace_file(tmp_path / "out/one.json") as path:
        write(path)
    files, folders = 0o666 & ~umask, 0o777 & ~umask
    names = {"model.safetensors": files, "weights": files, "one.json": files, "run.sh": folders}
    assert modes(tmp_path / "out") == {**names, "out": folders, "part": folders}


def test_what_is_replaced_keeps_its_mode(folder: Path) -> None:
    folder.chmod(0o770)
    (folder / "config.json").chmod(0o640)
    with replace_file(folder / "config.json") as path:
        path.write_text("new")
    assert modes(folder)["config.json"] == 0o640
    write_new(folder)
    assert modes(folder)["out"] == 0o770


# --- files -----------------------------------------------------------------------------------------------------------


def write_file(path: Path) -> None:
    with replace_file(path) as new:
        new.write_text("new")


def test_killed_at_any_instant_a_reader_finds_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    found = []
    for number in killed_at_every_file_operation(lambda: write_file(path)):
        assert path.read_text() in ("old", "new"), f"operation {number}"
        found.append(path.read_text() == "old")
        write_file(path)
        assert os.listdir(tmp_path) == ["results.json"]
        path.write_text("old")
    assert len(found) > 10 and len(set(found)) == 2


def test_a_file_that_fails_or_is_not_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replace_file(path) as new:
        assert new.suffix == ".json" and not new.exists()
        new.write_text("half")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError, match="was not written"), replace_file(path):
        pass
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]
    (tmp_path / "link.json").symlink_to("results.json")
    write_file(tmp_path / "link.json")
    assert path.read_text() == "new" and (tmp_path / "link.json").is_symlink()


# --- two writers -----------------------------------------------------------------------------------------------------


HOLD = f"""
import runpy, sys
# Without the package, which loads transformers.
functions = runpy.run_path({atomic_write_gill.__file__!r})
with functions[{{function!r}}](sys.argv[1]) as new:
    {{write}}
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["folder", "file"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[..., Any], str]:
    function, write = {
        "folder": (replace_folder, "(new / 'by').write_text('other')"),
        "file": (replace_file, "new.write_text('other')"),
    }[request.param]
    return tmp_path / "out", function, HOLD.format(function=function.__name__, write=write)


def test_a_second_writer_is_refused_and_takes_nothing_from_the_first(target: Any) -> None:
    path, function, script = target
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        for _ in range(2):
            with pytest.raises(BlockingIOError, match="out"), function(path, timeout=0.1):
                pass
        other.communicate("go on\n")
    assert other.returncode == 0
    assert (path / "by" if path.is_dir() else path).read_text() == "other" and os.listdir(path.parent) == ["out"]


def test_a_second_writer_waits_for_the_first_and_a_killed_one_holds_nobody_up(target: Any) -> None:
    path, function, script = target
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "writing\n"
        killer = threading.Timer(0.3, other.kill)
        killer.start()
        with function(path) as new:
            new.mkdir(exist_ok=True) if function is replace_folder else new.write_text("mine")
        killer.join()
    assert os.listdir(path.parent) == ["out"]


def test_threads_that_write_one_folder_come_one_after_the_other(folder: Path) -> None:
    inside, most = 0, 0

    def write(number: int) -> None:
        nonlocal inside, most
        with replace_folder(folder) as new:
            inside += 1
            most = max(most, inside)
            fill(new, {"by": str(number)})
            inside -= 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and content(folder)["by"] in map(str, range(8)) and os.listdir(folder.parent) == ["out"]
