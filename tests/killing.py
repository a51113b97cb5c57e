"""Run something again and again, killed (`kill -9`) before its first file operation, its second, and so on."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from modeling_gill import atomic_write_gill

_FILE_EVENTS = ("open", "os.", "shutil.", "tempfile.")


def killed_at_every_file_operation(action: Callable[[], Any], most: int = 10_000) -> Iterator[int]:
    """Yield n once `action`, in a process of its own, was killed just before its n-th file operation.

    The caller looks at what is left and puts it right for the next round. Ends once `action` came to its end.

    Raises:
        AssertionError: `action` failed, or never came to its end.
    """
    for number in range(1, most):
        child = os.fork()
        if child == 0:
            _run_and_die(action, number)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, f"operation {number}: the action failed"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield number
    raise AssertionError(f"not done after {most} file operations")


def _run_and_die(action: Callable[[], Any], number: int) -> None:
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
        sys.addaudithook(hook)
        action()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)
