"""Files that ask for far more memory than their size are refused before they get it, as a ConversionError."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.warm_processes import run_warm

ROOT = Path(__file__).parents[2]
# Reads each file, all in one process that may take half a GiB more than it has once the libraries are imported.
READER = """
import json, resource, sys
from pathlib import Path
from conversion.original_files import ConversionError, load_checkpoint, read_settings
from conversion.retrieval_pickles import read_retrieval_pickles
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)
outcomes = {}
for path in map(Path, sys.argv[1:]):
    try:
        if path.suffix == ".json":
            read_settings(path.parent, ["opt_version"])
        elif path.suffix == ".tar":
            load_checkpoint(path)
        else:
            read_retrieval_pickles([path])
        outcomes[path.name] = "read"
    except ConversionError as error:
        outcomes[path.name] = f"refused: {error}"
    except BaseException as error:
        outcomes[path.name] = f"{type(error).__name__}: {error}"
print(json.dumps(outcomes))
"""


def text(value: str) -> bytes:
    return b"\x8c" + struct.pack("<B", len(value)) + value.encode()


def embeddings(body: bytes, paths: bytes = b"]") -> bytes:
    return b"\x80\x04}(" + text("paths") + paths + text("embeddings") + body + b"u."


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in records.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def saved(content: object, **options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def overlapping() -> bytes:
    """A hundred records that are all the same megabyte."""
    content = archive({"data.pkl": b"N.", "data/0": bytes(1 << 20)})
    end = content.rindex(b"PK\x05\x06")
    begin = struct.unpack("<I", content[end + 16 : end + 20])[0]
    entries = content[begin:end]
    last = entries[entries.rindex(b"PK\x01\x02") :]
    many = entries + last * 99
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 101, 101, len(many), begin, 0)
    return content[:begin] + many + tail


def deep(opening: bytes, closing: bytes, levels: int = 200_000) -> bytes:
    return opening * levels + closing * levels


HOSTILE: dict[str, Callable[[], bytes]] = {
    "far memo.npy": lambda: b"\x80\x04Nr\xff\xff\xff\x3f.",
    "far memo in text.npy": lambda: b"Np1000000000\n.",
    "long integer.npy": lambda: embeddings(b"]\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000 + b"a"),
    "digits.npy": lambda: b"I" + b"9" * 5000 + b"\n.",
    "integer key.npy": lambda: b"}\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000 + b"Ns.",
    "long bytes.npy": lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"N.",
    "long text.npy": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 33) + b"N.",
    "frame.npy": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 33) + b"N.",
    "deep list.npy": lambda: deep(b"]", b"a") + b".",
    "deep tuple key.npy": lambda: b"})" + b"\x85" * 200_000 + b"Ns.",
    "stride 0.npy": lambda: pickle.dumps({"paths": [], "embeddings": torch.ones(1).expand(1 << 15, 1 << 15)}),
    "many rows.npy": lambda: embeddings(many_rows(), b"](" + text("a") + b"\x94" + b"h\x00" * 100_000 + b"e"),
    "compressed.pth.tar": lambda: archive({"data.pkl": b"N" * (1 << 30)}, zipfile.ZIP_DEFLATED),
    "compressed tensor.pth.tar": lambda: archive({"data.pkl": b"N.", "data/0": bytes(1 << 30)}, zipfile.ZIP_DEFLATED),
    "overlapping.pth.tar": overlapping,
    "expanded.pth.tar": lambda: saved({"state_dict": {"a": torch.ones(1).expand(1 << 15, 1 << 15)}}),
    "integer names.pth.tar": lambda: saved({"state_dict": {3: torch.ones(1)}}),
    "long integer key.pth.tar": lambda: saved({10**5000: 1}),
    "integer key.pth.tar": lambda: saved({3: 1, "state_dict": {1 << 60: 2}}),
    "far memo.pth.tar": lambda: b"\x80\x02Nr\xff\xff\xff\x3f.",
    "deep.pth.tar": lambda: archive({"data.pkl": deep(b"]", b"a") + b".", "version": b"3"}),
    "model_args.json": lambda: b'{"opt_version": ' + b"9" * 5000 + b"}",
}


def many_rows() -> bytes:
    """A vector of 100,000 numbers, 100,000 times: 40 GB out of half a megabyte."""
    row = pickle.dumps(np.ones(100_000, dtype=np.float32), protocol=2)[2:-1]
    # Its own memo slots come first in the file; the next free one is far enough behind them.
    return b"](" + row + b"q\x40" + b"h\x40" * 99_999 + b"e"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in HOSTILE.items():
        (folder / name).write_bytes(content())
    command = ["-P", "-c", READER, *(str(folder / name) for name in HOSTILE)]
    done = run_warm(command, after="diffusers", env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are Linux's")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_asks_for_too_much_is_refused_by_name_in_bounded_memory(
    outcomes: dict[str, str], name: str
) -> None:
    assert outcomes[name].startswith("refused: ") and name in outcomes[name]
    assert len(outcomes[name]) < 1000
