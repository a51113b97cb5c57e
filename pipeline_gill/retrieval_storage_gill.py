"""The folder a retrieval set is kept in, on disk and on the Hub.

retrieval_set.json    what the set is: RetrievalSetInfo
data/                 a `datasets` data set on disk: image, path, caption, embedding
embeddings.faiss      the same embeddings as an index, where faiss was installed
README.md             what it is, for people and for the Hub
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.utils import HFValidationError

from modeling_gill.fingerprint_gill import fingerprint_name

try:
    import datasets
except ImportError:
    datasets = None  # type: ignore[assignment]

INFO_FILE = "retrieval_set.json"
DATA_FOLDER = "data"
INDEX_FILE = "embeddings.faiss"
_CARD_FILE = "README.md"
_FORMAT = "gill-retrieval-set"
_FORMAT_VERSION = 1


def created_with() -> dict[str, str]:
    """Versions of what has a say in the embeddings."""
    versions = {"python": platform.python_version(), "format_version": str(_FORMAT_VERSION)}
    for package in ("gill", "transformers", "torch", "datasets", "pillow"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@dataclasses.dataclass(frozen=True)
class RetrievalSetInfo:
    """What a retrieval set is and how it came to be.

    Args:
        retrieval_dim (`int`): Length p of the embeddings.
        count (`int`): How many images there are.
        fingerprint (`dict`): Of the weights that embedded them, as the model gives it.
        source (`str`): Where the images came from, in words.
        skipped (`int`): How many images could not be read and were left out.
        base_dir (`str`): The folder that relative paths start from, itself relative to the set's folder.
        created_with (`dict[str, str]`): Versions of the software that made it.
    """

    retrieval_dim: int
    count: int
    fingerprint: dict[str, Any]
    source: str = ""
    skipped: int = 0
    base_dir: str = "."
    created_with: dict[str, str] = dataclasses.field(default_factory=created_with)


def require_datasets() -> Any:
    """The `datasets` library, or an `ImportError` that says how to get it."""
    if datasets is None:
        raise ImportError("a retrieval set needs the datasets library: pip install datasets")
    return datasets


@contextlib.contextmanager
def whole_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a new folder beside `folder` that takes its place once all is written; after an error it is removed.

    Raises:
        FileExistsError: If there is something at `folder`, unless it is empty, or a retrieval set to overwrite.
    """
    check_free(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    partial, old = folder.with_name(f".{folder.name}.partial-{mark}"), folder.with_name(f".{folder.name}.old-{mark}")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `FileExistsError` if a retrieval set may not be written to `folder`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / INFO_FILE).is_file():
        raise FileExistsError(f"{folder} exists and is no retrieval set; name a new folder")
    if not overwrite:
        raise FileExistsError(f"{folder} holds a retrieval set already; name a new folder or ask to overwrite it")


def write_folder(folder: Path, dataset: Any, info: RetrievalSetInfo) -> None:
    """Write all files but the index into an empty folder."""
    dataset.save_to_disk(str(folder / DATA_FOLDER))
    content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **dataclasses.asdict(info)}
    (folder / INFO_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / _CARD_FILE).write_text(_card(info), encoding="utf-8")


def find_folder(
    name: str | os.PathLike[str],
    *,
    revision: str | None,
    subfolder: str | None,
    token: str | bool | None,
    local_files_only: bool,
    with_index: bool,
) -> tuple[Path, bool]:
    """The folder of a set, and whether it is a snapshot from the Hub, downloaded if it has to be.

    Raises:
        FileNotFoundError: If there is neither such a folder nor a possible Hub id; the Hub's own errors otherwise.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path / (subfolder or ""), False
    try:
        snapshot = snapshot_download(
            os.fspath(name),
            repo_type="dataset",
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            allow_patterns=f"{subfolder.strip('/')}/*" if subfolder else None,
            ignore_patterns=None if with_index else f"*{INDEX_FILE}",
        )
    except HFValidationError as error:
        raise FileNotFoundError(f"{name}: there is no such folder, and it is not the id of a Hub data set") from error
    return Path(snapshot) / (subfolder or ""), True


def read_folder(folder: Path) -> tuple[Any, RetrievalSetInfo]:
    """Open the data set, memory-mapped, and the description of a set's folder.

    Raises:
        FileNotFoundError: If a file is missing. ValueError: If one is damaged, or they contradict each other. The
            messages name the file, and what was found and expected.
    """
    library = require_datasets()
    info = _read_info(folder)
    data = folder / DATA_FOLDER
    if not data.is_dir():
        raise FileNotFoundError(f"{data} is missing, expected the data set of {info.count} images")
    try:
        dataset = library.load_from_disk(str(data))
    except Exception as error:  # datasets, pyarrow and fsspec each raise their own
        raise ValueError(f"{data} could not be read as a data set on disk, truncated perhaps: {error}") from error
    if not isinstance(dataset, library.Dataset):
        raise ValueError(f"{data} holds a {type(dataset).__name__}, expected a single Dataset")
    if len(dataset) != info.count:
        raise ValueError(f"{data} holds {len(dataset)} images, expected {info.count} as {INFO_FILE} says")
    return dataset, info


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
) -> str:
    """Upload a set's folder to a data set repository, created if need be, as one commit. Returns the commit's URL."""
    # Not upload_folder: it may make several commits, between which the set would be half a set.
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    add = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path)) for name, path in files.items()]
    there = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
    ours = (name for name in there if name.startswith(f"{DATA_FOLDER}/") or name == INDEX_FILE)
    delete = [CommitOperationDelete(path_in_repo=name) for name in ours if name not in files]
    commit = api.create_commit(
        repo_id, [*delete, *add], commit_message=commit_message, repo_type="dataset", revision=revision
    )
    return str(commit.commit_url)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new temporary folder that is removed after an error, and else left to the caller."""
    folder = Path(tempfile.mkdtemp(prefix="gill-retrieval-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read_info(folder: Path) -> RetrievalSetInfo:
    path = folder / INFO_FILE
    if not path.is_file():
        found = (
            ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) if folder.is_dir() else "no such folder"
        )
        raise FileNotFoundError(f"{path} is missing, expected the folder of a saved retrieval set (found: {found})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON, truncated perhaps ({error})") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} does not describe a retrieval set, expected 'format': {_FORMAT!r}")
    if content.get("format_version") != _FORMAT_VERSION:
        found = repr(content.get("format_version"))
        raise ValueError(f"{path} has format_version {found}, expected {_FORMAT_VERSION}; update gill to read it")
    for key, kind in (("retrieval_dim", int), ("count", int), ("fingerprint", dict), ("base_dir", str)):
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} has {key!r}: {content.get(key)!r}, expected {kind.__name__}")
    names = {field.name for field in dataclasses.fields(RetrievalSetInfo)}
    return RetrievalSetInfo(**{name: value for name, value in content.items() if name in names})


def _card(info: RetrievalSetInfo) -> str:
    return f"""---
configs:
- config_name: default
  data_files: {DATA_FOLDER}/*.arrow
tags:
- gill
- retrieval-set
---

# Retrieval set for GILL

{info.count} images that GILL can retrieve, embedded in {info.retrieval_dim} dimensions.

- Source: {info.source or "not stated"}
- For the weights with the fingerprint `{fingerprint_name(info.fingerprint)}` and no others
- Images left out because they could not be read: {info.skipped}
- Made with: {", ".join(f"{name} {number}" for name, number in info.created_with.items())}
"""


__all__ = [
    "DATA_FOLDER",
    "INDEX_FILE",
    "INFO_FILE",
    "RetrievalSetInfo",
    "check_free",
    "created_with",
    "find_folder",
    "push_folder",
    "read_folder",
    "require_datasets",
    "scratch_folder",
    "whole_folder",
    "write_folder",
]
