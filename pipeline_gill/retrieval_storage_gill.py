"""The folder of a retrieval set, on disk and on the Hub.

retrieval_set.json    what the set is: RetrievalSetInfo
data/                 a `datasets` dataset on disk with the columns image, path, caption, embedding
embeddings.faiss      the same embeddings as an index, where faiss was installed
README.md             what it is, for people and for the Hub
"""

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download

from modeling_gill.atomic_write_gill import replace_folder
from modeling_gill.fingerprint_gill import fingerprint_name, library_versions

from .retrieval_trust_gill import lies_within

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
COLUMNS = ("image", "path", "caption", "embedding")
_MAX_JSON_BYTES = 4 * 1024 * 1024
_MAX_RETRIEVAL_DIM = 1 << 16


def _created_with() -> dict[str, str]:
    versions = library_versions("gill-multimodal", "transformers", "torch", "datasets", "pillow")
    return {**versions, "format_version": str(_FORMAT_VERSION)}


@dataclasses.dataclass(frozen=True)
class RetrievalSetInfo:
    """What a retrieval set is and how it was made.

    Args:
        retrieval_dim (`int`): Length of the embeddings.
        count (`int`): Number of images.
        fingerprint (`dict`): Of the weights that embedded them, as `model.retrieval_fingerprint()` gives it.
        source (`str`): Where the images came from, in words.
        skipped (`int`): Number of images that could not be read and were left out.
        base_dir (`str`): The folder that relative paths start from, itself relative to the folder of the set.
        created_with (`dict[str, str]`): Versions of the software that made it.
        signature (`str`, *optional*): Lets the user who built the set open files outside of its folder.
    """

    retrieval_dim: int
    count: int
    fingerprint: dict[str, Any]
    source: str = ""
    skipped: int = 0
    base_dir: str = "."
    created_with: dict[str, str] = dataclasses.field(default_factory=_created_with)
    signature: str | None = None


def require_datasets() -> Any:
    """The `datasets` library, or an `ImportError` that says how to get it."""
    if datasets is None:
        raise ImportError("A retrieval set needs `datasets`: pip install datasets, or 'gill-multimodal[retrieval]'")
    return datasets


@contextlib.contextmanager
def retrieval_set_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a retrieval set in one step: a reader finds the old set or the new one, whole, at every instant.

    Other files in the folder are kept.

    Raises:
        FileExistsError: `folder` is not empty, and no retrieval set that may be overwritten.
    """
    check_free(folder, overwrite=overwrite)
    own = (f"{DATA_FOLDER}/", INDEX_FILE, INFO_FILE, _CARD_FILE)
    with replace_folder(folder, keep=lambda name: not name.startswith(own)) as new:
        yield new


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise `FileExistsError` if a retrieval set may not be written to `folder`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / INFO_FILE).is_file():
        raise FileExistsError(f"{folder} exists and is no retrieval set; name a new folder")
    if not overwrite:
        raise FileExistsError(f"{folder} holds a retrieval set already; name a new folder, or set `overwrite`")


def write_folder(folder: Path, dataset: Any, info: RetrievalSetInfo) -> None:
    """Write all files but the index into an empty folder."""
    library = require_datasets()
    quiet = library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        dataset.save_to_disk(str(folder / DATA_FOLDER))
    finally:
        if not quiet:
            library.enable_progress_bars()
    content = {"format": _FORMAT, "format_version": _FORMAT_VERSION, **dataclasses.asdict(info)}
    (folder / INFO_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / _CARD_FILE).write_text(_card(info), encoding="utf-8")


def download_folder(
    repo_id: str,
    *,
    repo_type: str = "dataset",
    subfolder: str | None = None,
    revision: str | None = None,
    **hub_options: Any,
) -> tuple[Path, str]:
    """Download a set from the Hub, unless it is in the cache.

    Args:
        repo_id (`str`), revision (`str`, *optional*): The repository.
        repo_type (`str`, defaults to `"dataset"`): `"dataset"` or `"model"`.
        subfolder (`str`, *optional*): Where in the repository the set is.
        hub_options: `token`, `cache_dir`, `force_download`, `local_files_only` as `snapshot_download` takes them.

    Returns:
        `tuple[Path, str]`: The folder of the set, and the commit.

    Raises:
        EntryNotFoundError: there is no set in the repository. Other errors of the Hub if it cannot be downloaded.
    """
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    # First, as `snapshot_download` does not say that files are missing, nor that they are only missing in the cache.
    info = hf_hub_download(repo_id, prefix + INFO_FILE, repo_type=repo_type, revision=revision, **hub_options)
    commit = Path(info).parents[prefix.count("/")].name
    snapshot = snapshot_download(
        repo_id,
        repo_type=repo_type,
        revision=commit,
        allow_patterns=f"{prefix}*" if prefix else None,
        # Made again from the embeddings.
        ignore_patterns=f"*{INDEX_FILE}",
        **hub_options,
    )
    return Path(snapshot) / prefix, commit


def read_folder(folder: Path) -> tuple[Any, RetrievalSetInfo]:
    """Open the dataset, memory-mapped, and the description of a set's folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or two of them contradict each other; the message names the file, what was found
            and what was expected.
    """
    library = require_datasets()
    info = _read_info(folder)
    data = folder / DATA_FOLDER
    if not data.is_dir():
        raise FileNotFoundError(f"{data} is missing, expected the dataset of {info.count} images")
    _check_data_files(folder, data)
    try:
        dataset = library.load_from_disk(str(data))
    except Exception as error:  # datasets, pyarrow and fsspec each raise their own
        raise ValueError(f"{data} could not be read as a dataset on disk, truncated perhaps: {error}") from error
    if not isinstance(dataset, library.Dataset):
        raise ValueError(f"{data} holds a {type(dataset).__name__}, expected a single Dataset")
    if len(dataset) != info.count:
        raise ValueError(f"{data} holds {len(dataset)} images, expected {info.count} as {INFO_FILE} says")
    check_columns(dataset, str(data))
    try:
        dataset.data.validate(full=True)  # offsets beyond the file, which would be read unchecked
    except ValueError as error:
        raise ValueError(f"{data} is damaged: {error}") from error
    return dataset.with_format(None), info


def check_columns(dataset: Any, name: str = "the dataset") -> None:
    """Raise `ValueError` unless a dataset has the columns of a retrieval set, naming what was found."""
    library = require_datasets()
    missing = [column for column in COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(f"{name} has the columns {dataset.column_names}, expected {list(COLUMNS)} among them")
    expected = {"image": library.Image, "path": library.Value("string"), "caption": library.Value("string")}
    for column, kind in expected.items():
        feature = dataset.features[column]
        if not (isinstance(feature, kind) if isinstance(kind, type) else feature == kind):
            raise ValueError(f"the column {column!r} of {name} holds {feature}, expected {kind}")


def without_indices(dataset: Any) -> Any:
    """The dataset with its rows in the order of its table; `select` and `shuffle` only note which rows they take.

    The one place that reads this private attribute: `flatten_indices` copies the dataset even where there are none.
    """
    return dataset if dataset._indices is None else dataset.flatten_indices()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a new temporary folder that is removed after an error and otherwise left to the caller."""
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
    content = _read_json(path)
    if content.get("format") != _FORMAT:
        raise ValueError(f"{path} does not describe a retrieval set, expected 'format': {_FORMAT!r}")
    if content.get("format_version") != _FORMAT_VERSION:
        found = f"{content.get('format_version')!r:.80}"
        raise ValueError(f"{path} has format_version {found}, expected {_FORMAT_VERSION}; update gill to read it")
    names = {field.name for field in dataclasses.fields(RetrievalSetInfo)}
    fields = {name: value for name, value in content.items() if name in names}
    kinds = {"retrieval_dim": int, "count": int, "fingerprint": dict, "source": str, "skipped": int, "base_dir": str}
    for name, kind in {**kinds, "created_with": dict, "signature": str | None}.items():
        required = name in ("retrieval_dim", "count", "fingerprint", "base_dir")
        value = fields.get(name)
        if (name in fields or required) and (not isinstance(value, kind) or isinstance(value, bool)):
            expected = getattr(kind, "__name__", str(kind))
            raise ValueError(f"{path} has {name!r}: {value!r:.80}, expected {expected}")
    if fields["count"] < 1 or not 1 <= fields["retrieval_dim"] <= _MAX_RETRIEVAL_DIM:
        raise ValueError(
            f"{path} describes {fields['count']} embeddings of length {fields['retrieval_dim']}, expected at least 1 "
            f"of length 1 to {_MAX_RETRIEVAL_DIM}"
        )
    return RetrievalSetInfo(**fields)


def _check_data_files(folder: Path, data: Path) -> None:
    """Only files of the set itself may be opened as its dataset."""
    state = data / "state.json"
    if not state.is_file():
        raise ValueError(f"{data} could not be read as a dataset on disk: {state.name} is missing")
    files = _read_json(state).get("_data_files")
    names = [entry.get("filename") for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    if not names:
        raise ValueError(f"{state} names no files of the dataset, expected '_data_files'")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ValueError(f"{state} names the file {name!r:.80}, expected the name of a file beside it")
    for path in data.iterdir():
        if not lies_within(path, folder):
            raise ValueError(f"{path} is a link to a file outside of the retrieval set")


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, expected at most {_MAX_JSON_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON, truncated perhaps ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


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
    "COLUMNS",
    "DATA_FOLDER",
    "INDEX_FILE",
    "INFO_FILE",
    "RetrievalSetInfo",
    "check_free",
    "check_columns",
    "download_folder",
    "read_folder",
    "require_datasets",
    "scratch_folder",
    "retrieval_set_folder",
    "without_indices",
    "write_folder",
]
