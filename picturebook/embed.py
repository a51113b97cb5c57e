"""Put a trained repository where `make demo` looks for it: `python -m picturebook.embed --model DIR/gill`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKPOINT = Path(__file__).with_name("checkpoint")
# The code is here already, and an index is made of the embeddings in a moment.
_LEFT_OUT = ("*.py", "*.faiss", "__pycache__")


def embed_repository(source: Path, folder: Path = CHECKPOINT) -> None:
    """Copy a repository, complete or not at all, in place of the one that was there.

    Raises:
        FileNotFoundError: `source` is no repository of a pipeline.
    """
    if not (source / "model_index.json").is_file():
        raise FileNotFoundError(f"{source} has no model_index.json; expected the repository of a pipeline.")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a folder that is no repository ends it with one line and exit status 1."""
    parser = argparse.ArgumentParser("picturebook.embed", description="Make a repository the embedded default.")
    parser.add_argument("--model", type=Path, required=True, help="GILL repository, as picturebook.train makes it")
    options = parser.parse_args(arguments)
    try:
        embed_repository(options.model)
    except OSError as error:
        sys.exit(f"embed: {error}")
    size = sum(path.stat().st_size for path in CHECKPOINT.rglob("*") if path.is_file())
    print(f"{CHECKPOINT}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
