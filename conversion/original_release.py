"""An original release of GILL or FROMAGe, as both are converted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapter_tensors import TensorSource


@dataclass(frozen=True)
class Original:
    """
    An original release.

    Attributes:
        config_fields (`dict[str, Any]`): Arguments of `GillConfig` but those that depend on the backbones.
        img_tokens (`list[str]`): The `[IMG]` tokens, in the order of `config_fields["image_output_token_ids"]`.
        sources (`list[TensorSource]`): The checkpoints.
        retrieval_pickles (`list[Path]`): Files of retrieval embeddings.
        inputs (`list[Path]`): Files and folders that a conversion reads.
        split_image_tokens (`bool`): Whether `img_tokens` in the text of a prompt are ordinary text.
    """

    config_fields: dict[str, Any]
    img_tokens: list[str]
    sources: list[TensorSource]
    retrieval_pickles: list[Path]
    inputs: list[Path]
    split_image_tokens: bool = True
