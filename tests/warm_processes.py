"""Fresh processes that need not import the libraries again: forks of one that has done so, and has nothing of ours.

Importing torch, transformers and diffusers takes ten seconds, most of what a test in a process of its own takes.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TextIO

# What a process may find imported. Only the second part reads its environment (`HF_*`) when it is imported.
IMPORTS = {
    "torch": ("torch", "torch._dynamo", "scipy.optimize", "scipy.stats", "pandas", "pyarrow.parquet", "sympy"),
    "diffusers": (
        "transformers.modeling_utils",
        "peft",
        "datasets",
        "diffusers.hooks",
        "diffusers.models.modeling_utils",
    ),
}


def run_warm(
    arguments: Sequence[str],
    *,
    after: Literal["torch", "diffusers"] = "torch",
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """Run `python` with `arguments` in a process that has imported libraries and nothing else.

    Args:
        arguments (`Sequence[str]`): `["-P", "-c", code, ...]`, `["-m", module, ...]` or `[script, ...]`.
        after (`str`): What was imported before; `"diffusers"` needs the `HF_*` variables of this process.
        cwd, env, timeout: As in [`subprocess.run`].

    Returns:
        `subprocess.CompletedProcess`, `stdout` and `stderr` as text.
    """
    env = dict(os.environ if env is None else env)
    if sys.platform != "linux":  # elsewhere what was imported may not survive a fork
        command = [sys.executable, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout, check=False)
    given, own = ({k: v for k, v in some.items() if k.startswith("HF_")} for some in (env, os.environ))
    assert after == "torch" or given == own, f"{given} differ from {own}, which the libraries have read"
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_server(after))
        request = {"arguments": [*arguments], "cwd": os.fspath(cwd or os.getcwd()), "env": env, "folder": folder}
        answers = _send(connection, request)
        pid = int(answers.readline())
        connection.settimeout(timeout)
        try:
            code = int(answers.readline())
        except TimeoutError as error:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired([*arguments], timeout) from error
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess([*arguments], code, out, err)


@cache
def _server(after: str) -> str:
    """The address of a process that has imported what `after` says, started when it is first needed."""
    if after == "torch":
        folder = tempfile.mkdtemp(prefix="gill-warm-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        address = f"{folder}/torch"
        # It ends when its standard input does, that is with this process.
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, address, *IMPORTS["torch"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # tests run side by side
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return address
    first = _server("torch")
    address = str(Path(first).with_name(after))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(first)
        assert _send(connection, {"address": address, "imports": IMPORTS[after]}).readline() == "ready\n"
    return address


def _send(connection: socket.socket, request: dict[str, Any]) -> TextIO:
    connection.sendall(json.dumps(request).encode() + b"\n")
    return connection.makefile("r")


def _serve(address: str, imports: Sequence[str], starter: TextIO) -> tuple[dict[str, Any], TextIO] | None:
    """Import, tell `starter`, and fork for each request: returns the request in the fork, `None` at the end."""
    for name in imports:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a fork shares what is never looked at
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        starter.write("ready\n")
        starter.flush()
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return None
            connection, _ = listener.accept()
            answers = connection.makefile("rw")
            request = json.loads(answers.readline())
            pid = os.fork()
            if pid == 0:
                return request, answers
            if "arguments" in request:
                answers.write(f"{pid}\n")
                answers.flush()
                _, status = os.waitpid(pid, 0)
                answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
            with suppress(BrokenPipeError):  # whoever asked waits no longer
                answers.close()
            connection.close()


def _become(arguments: list[str], cwd: str, env: dict[str, str], folder: str) -> None:
    """Be `python` with these arguments."""
    for number, (name, flags) in enumerate(
        [("/dev/null", os.O_RDONLY), *((f"{folder}/{name}", os.O_WRONLY | os.O_CREAT) for name in ("stdout", "stderr"))]
    ):
        file = os.open(name, flags)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, *rest = arguments
    if kind == "-P":
        _, code, *rest = rest
        sys.argv = ["-c", *rest]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.path.insert(0, cwd)
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).parent))
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


def _main() -> None:
    address, *imports = sys.argv[1:]
    found: tuple[dict[str, Any], TextIO] | None = ({"address": address, "imports": imports}, sys.stdout)
    while found is not None:
        request, answers = found
        if "arguments" in request:
            answers.close()
            return _become(**request)
        found = _serve(**request, starter=answers)


if __name__ == "__main__":
    _main()

__all__ = ["run_warm"]
