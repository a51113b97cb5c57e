"""The code of a Hub repository.

In a repository every file is a sibling of every other, named `*_gill.py`. In the package they are in `modeling_gill/`
and `pipeline_gill/`, and the latter imports the former by its package name.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from .configuration_gill import GillConfig

MODEL_INDEX = "model_index.json"
# What Inference Endpoints look for, by its name.
HANDLER_FILE = "handler.py"
_HANDLER = """# Called by Inference Endpoints of the Hub.
from endpoint_handler_gill import EndpointHandler

__all__ = ["EndpointHandler"]
"""
_PACKAGE_IMPORT = re.compile(r"^(\s*from )modeling_gill(\.\w+_gill import )", re.MULTILINE)


def flat_code() -> dict[str, str]:
    """Name and text of every file that a repository needs, imports rewritten to siblings.

    Works in the package and in a repository, where the files are siblings already.
    """
    folders = {_folder_of(GillConfig.__module__), _folder_of(__name__)}
    paths = sorted(path for folder in folders for path in folder.glob("*_gill.py"))
    return {path.name: _PACKAGE_IMPORT.sub(r"\1\2", path.read_text(encoding="utf-8")) for path in paths}


def write_code(folder: str | os.PathLike[str]) -> None:
    """Write the code into a repository's folder."""
    for name, text in flat_code().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
    (Path(folder) / HANDLER_FILE).write_text(_HANDLER, encoding="utf-8")


def write_model_index(folder: str | os.PathLike[str], entries: dict[str, Any]) -> None:
    """Write `model_index.json` so that `DiffusionPipeline` finds the class of the pipeline in the repository."""
    index = {"_class_name": ["pipeline_gill", "GillPipeline"], **entries}
    (Path(folder) / MODEL_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def index_with_retrieval_set(folder: str | os.PathLike[str], repo_id: str, revision: str) -> str:
    """The text of a repository's `model_index.json`, naming a dataset repository with the images to retrieve.

    Args:
        folder (`str` or `os.PathLike`): The folder of the repository.
        repo_id, revision (`str`): The dataset repository and its commit.
    """
    index = json.loads((Path(folder) / MODEL_INDEX).read_text(encoding="utf-8"))
    index.update(retrieval_set_id=repo_id, retrieval_set_revision=revision)
    return json.dumps(index, indent=2) + "\n"


def _folder_of(module: str) -> Path:
    return Path(str(sys.modules[module].__file__)).parent


__all__ = ["HANDLER_FILE", "MODEL_INDEX", "flat_code", "index_with_retrieval_set", "write_code", "write_model_index"]
