"""A command to test the command line with."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal


@dataclass
class Options:
    """Options of every type that a command line has a form for."""

    source: Path = field(metadata={"positional": True, "help": "what to read"})
    out: Path = field(metadata={"short": "-o", "help": "where to write"})
    batch_size: int = field(default=8, metadata={"min": 1})
    dtype: Literal["float32", "bfloat16"] = "float32"
    model_name: str | Path = "org/gill"
    revision: str | None = None
    scale: float = 1.0
    verify: bool = False
    embed_images: bool = True
    metrics: list[str] = field(default_factory=lambda: ["fid"])
    base_license: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list, metadata={"extra": True})
    callback: object = field(default=None, metadata={"cli": False})


def run(options: Options) -> int | None:
    """Print the options, or raise what the source names."""
    name = options.source.name
    if name == "interrupt":
        raise KeyboardInterrupt
    if name == "negative":
        return 1
    if name == "unverified":
        error = ValueError("the tensors\ndiffer")
        error.exit_code = 1  # type: ignore[attr-defined]
        raise error
    if name == "invalid":
        raise ValueError("no column 'caption'\nin the file")
    if name == "extra":
        import_error = ModuleNotFoundError("No module named 'faiss'", name="faiss")
        raise import_error
    if name == "bug":
        raise ZeroDivisionError
    print(json.dumps(asdict(options), default=str))
    return None
