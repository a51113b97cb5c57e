"""The trained checkpoint: where it is, and how it is replaced or refreshed."""

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .arguments import EmbedArguments

CHECKPOINT = Path(__file__).with_name("checkpoint")
SMOLLM2_ADAPTERS = Path(__file__).with_name("smollm2")
DREAMLLM = Path(__file__).with_name("dreamllm")
# The code is written anew, and the index is rebuilt from the embeddings when it is loaded.
_NOT_COPIED = ("*.py", "*.faiss", "__pycache__")


def find_checkpoint() -> Path:
    """
    The folder of the trained picture book: of this checkout, or of the distribution `gill-multimodal-picturebook`.

    Raises:
        FileNotFoundError: neither is there; the message says what to install.

    Example:

        >>> from picturebook import find_checkpoint
        >>> (find_checkpoint() / "model_index.json").is_file()
        True
    """
    if (CHECKPOINT / "model_index.json").is_file():
        return CHECKPOINT
    if find_spec("gill_picturebook") is not None:
        from gill_picturebook import CHECKPOINT as INSTALLED

        return Path(INSTALLED)
    raise FileNotFoundError(
        "The picture book's checkpoint is not installed; install it with: pip install 'gill-multimodal[picturebook]', "
        "or name another repository with --model."
    )


def find_smollm2_adapters() -> Path:
    """
    The folder of the adapters between SmolLM2 and the picture book's models, found as [`find_checkpoint`] is.

    Raises:
        FileNotFoundError: they are not there; the message says what to install.
    """
    return _beside_checkpoint(SMOLLM2_ADAPTERS, "The adapters for SmolLM2", "gill picturebook english --out DIR")


def find_dreamllm() -> Path:
    """
    The folder of the DreamLLM between the picture book's models, found as [`find_checkpoint`] is.

    Raises:
        FileNotFoundError: it is not there; the message says what to install.
    """
    return _beside_checkpoint(DREAMLLM, "The DreamLLM", "gill picturebook dream --out DIR")


def embed(arguments: "EmbedArguments") -> None:
    """
    Make a trained repository the checkpoint of this checkout, or refresh the code of the one that is there.

    Raises:
        FileNotFoundError: `arguments.model` is no repository of a pipeline; the checkpoint stays as it was.
    """
    embed_repository(Path(arguments.model or CHECKPOINT), CHECKPOINT)
    size = sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file())
    print(f"{CHECKPOINT}: {size / 1e6:.1f} MB")


def _beside_checkpoint(folder: Path, what: str, command: str) -> Path:
    """A folder of this checkout, or the one beside the installed checkpoint."""
    if (folder / "config.json").is_file():
        return folder
    beside = find_checkpoint().parent / folder.name
    if (beside / "config.json").is_file():
        return beside
    raise FileNotFoundError(
        f"{what} of the picture book cannot be found; install it with: pip install 'gill-multimodal[picturebook]', or "
        f"train it with: {command}"
    )


def embed_repository(source: Path, folder: Path) -> None:
    """Copy a repository to `folder` with the current code. Card and samples stay unless `source` has others."""
    from modeling_gill.atomic_write_gill import replace_folder
    from pipeline_gill.hub_layout_gill import write_code

    if not (source / "model_index.json").is_file():
        raise FileNotFoundError(f"{source} has no model_index.json; expected the repository of a pipeline.")
    with replace_folder(folder, keep=("README.md", "samples")) as new:
        shutil.copytree(source, new, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        write_code(new)
