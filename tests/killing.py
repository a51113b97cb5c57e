"""Run something again and again, killed (`kill -9`) before its first file operation, its second, and so on."""

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modeling_gill import atomic_write_gill

_FILE_EVENTS = ("open", "os.", "shutil.", "tempfile.")


def killed_at_every_file_operation(action: Callable[[], Any], sparse: int = 1, dense: int = 0) -> Iterator[int]:
    """Yield n once `action`, in a process of its own, was killed just before its n-th file operation.

    The caller looks at what is left and restores it for the next round.

    Args:
        sparse (`int`): Kill only at every `sparse`-th operation, for actions of thousands of them,
        dense (`int`): but at every one of the last `dense`, when what was written takes its place.

    Raises:
        AssertionError: `action` failed.
    """
    total = _count(action)
    yield 0  # it was not killed
    for number in range(1, total + 1):
        if number % sparse and number <= total - dense:
            continue
        status = _run(action, number)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"operation {number}: the action failed"
            return  # there was less to do than the first time
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield number


def _count(action: Callable[[], Any]) -> int:
    reader, writer = os.pipe()
    assert _run(action, None, writer) == 0, "the action failed"
    os.close(writer)
    with os.fdopen(reader) as file:
        return int(file.read())


def _run(action: Callable[[], Any], number: int | None, report_to: int | None = None) -> int:
    child = os.fork()
    if child == 0:
        _run_and_die(action, number, report_to)
    return os.waitpid(child, 0)[1]


def _run_and_die(action: Callable[[], Any], number: int | None, report_to: int | None) -> None:
    count = 0

    def hook(event: str, _: Any) -> None:
        nonlocal count
        if event.startswith(_FILE_EVENTS):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    # Python does not report these two by itself.
    fsync, exchange = os.fsync, atomic_write_gill._exchange

    def reported_fsync(handle: int) -> None:
        sys.audit("os.fsync", handle)
        fsync(handle)

    def reported_exchange(*paths: Any) -> None:
        sys.audit("os.exchange", *paths)
        exchange(*paths)
        sys.audit("os.exchanged", *paths)

    try:
        os.fsync, atomic_write_gill._exchange = reported_fsync, reported_exchange
        torch.set_num_threads(1)
        gc.disable()  # it would look at all that was forked, and copy it
        sys.addaudithook(hook)
        action()
        if report_to is not None:
            os.write(report_to, str(count).encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
