"""How the code of two folders becomes the one flat set of files of a Hub repository, and back into a folder.

This is the one place that knows. On the Hub every file is a sibling of every other, named `*_gill.py`; here they lie in
`modeling_gill/` and `pipeline_gill/`, and the latter imports the former by its package name.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modeling_gill.configuration_gill import GillConfig

_PACKAGE_IMPORT = re.compile(r"^(\s*from )modeling_gill(\.\w+_gill import )", re.MULTILINE)


def flat_code() -> dict[str, str]:
    """Name and text of every file that the Hub needs, imports rewritten to siblings.

    Works from the package and from a Hub repository alike, where the files are flat already.
    """
    folders = {_folder_of(GillConfig.__module__), _folder_of(__name__)}
    paths = sorted(path for folder in folders for path in folder.glob("*_gill.py"))
    return {path.name: _PACKAGE_IMPORT.sub(r"\1\2", path.read_text(encoding="utf-8")) for path in paths}


def write_code(folder: str | os.PathLike[str]) -> None:
    """Write the flat set of files into a repository's folder."""
    for name, text in flat_code().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")


def write_model_index(folder: str | os.PathLike[str], entries: dict[str, Any]) -> None:
    """Write `model_index.json` so that `DiffusionPipeline` finds the pipeline's class in the repository."""
    index = {"_class_name": ["pipeline_gill", "GillPipeline"], **entries}
    (Path(folder) / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def complete_or_not_at_all(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder beside `folder` to write into; its files take their place in `folder` only if all went well.

    Files of `folder` that are not written anew stay.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{str(target)!r} is a file; expected a folder to write the repository to.")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield beside
        if not target.exists():
            beside.chmod(0o755)
            beside.rename(target)
            return
        for path in sorted(beside.rglob("*")):
            place = target / path.relative_to(beside)
            if path.is_dir():
                place.mkdir(exist_ok=True)
            else:
                os.replace(path, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _folder_of(module: str) -> Path:
    return Path(str(sys.modules[module].__file__)).parent


__all__ = ["complete_or_not_at_all", "flat_code", "write_code", "write_model_index"]
