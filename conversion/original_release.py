"""What both conversions make of an original release before anything is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapter_tensors import TensorSource


@dataclass(frozen=True)
class Original:
    """An original release, read.

    Attributes:
        config_fields: keyword arguments of `GillConfig`, backbones' configurations and vocabulary excepted.
        img_tokens: text of the `[IMG]` tokens, in the order of `config_fields["image_output_token_ids"]`.
        sources: the checkpoints with their key tables.
        retrieval_pickles: files of retrieval embeddings, may be none.
        inputs: files and folders that a conversion reads.
        split_image_tokens: whether `img_tokens` typed in a prompt are ordinary text.
    """

    config_fields: dict[str, Any]
    img_tokens: list[str]
    sources: list[TensorSource]
    retrieval_pickles: list[Path]
    inputs: list[Path]
    split_image_tokens: bool = True
