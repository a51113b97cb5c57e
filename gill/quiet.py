"""Messages of libraries that a user cannot act on, filtered in this one place."""

import logging
import os

_IMPORTS_OF_TRANSFORMERS = "transformers.utils.import_utils"


def quiet_imports() -> None:
    """Filter what the libraries say while they are imported; call it before that."""
    # diffusers imports image processors of transformers that nothing here uses; without torchvision, each warns.
    logging.getLogger(_IMPORTS_OF_TRANSFORMERS).addFilter(_is_not_about_torchvision)


def quiet_libraries() -> None:
    """Filter messages for the whole process of a command. What a user can act on is still shown."""
    quiet_imports()
    # Data loader workers are forked after a tokenizer was used; tokenizers warns of that unless told what to do.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_not_about_torchvision(record: logging.LogRecord) -> bool:
    return "requires torchvision (not installed)" not in record.getMessage()


__all__ = ["quiet_imports", "quiet_libraries"]
