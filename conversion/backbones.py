"""What a conversion needs of the frozen models: configurations, tokenizer, image processor.

Weights only of the image encoder, and only to tell which of them a set of retrieval embeddings was made with.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from modeling_gill import GillProcessor

from .original_files import ConversionError, short_reason


@dataclass(frozen=True)
class Backbone:
    """Where a frozen model is, and how to say so on the command line.

    Attributes:
        role: what it is to a reader, as "language model".
        name: Hub repository, or absolute path of an existing folder.
        flag: the option that names another.
    """

    role: str
    name: str
    flag: str

    def __str__(self) -> str:
        return f"{self.role} {self.name!r}"


def locate(role: str, name: str, flag: str) -> Backbone:
    """A folder that exists is stored by its absolute path: a repository must not depend on where it is opened from."""
    folder = Path(name).expanduser()
    return Backbone(role, str(folder.resolve()) if folder.is_dir() else name, flag)


def load_text_config(backbone: Backbone) -> PretrainedConfig:
    """Configuration of the language model.

    Raises:
        ConversionError: it cannot be found; names it and the flag.
    """
    return _from_pretrained(AutoConfig, backbone, "configuration")


def load_vision_config(backbone: Backbone) -> PretrainedConfig:
    """Configuration of the image encoder; of a two-tower repository (a whole CLIP), that of its vision tower.

    Raises:
        ConversionError: it cannot be found; names it and the flag.
    """
    config = _from_pretrained(AutoConfig, backbone, "configuration")
    return getattr(config, "vision_config", config)


def load_vision_model(backbone: Backbone, config: PretrainedConfig) -> PreTrainedModel:
    """The image encoder itself, in the dtype that its weights are stored in.

    Raises:
        ConversionError: its weights cannot be found, or not all of them; names the backbone and the flag.
    """
    model, info = _from_pretrained(MODEL_MAPPING[type(config)], backbone, "weights", output_loading_info=True)
    if info["missing_keys"]:
        # They would be random numbers, different every time.
        raise ConversionError(f"the weights of the {backbone} lack {len(info['missing_keys'])} tensors")
    return model


def load_image_processor(backbone: Backbone) -> Any:
    """Preprocessing of the image encoder.

    Raises:
        ConversionError: there is none; names the backbone and the flag.
    """
    return _from_pretrained(AutoImageProcessor, backbone, "image processor")


def load_tokenizer(backbone: Backbone, img_tokens: Sequence[str], image_output_token_ids: Sequence[int]) -> Any:
    """The language model's tokenizer with `<|image|>` and `img_tokens` added in the authors' order.

    Raises:
        ConversionError: there is none, or the new tokens get other ids than `image_output_token_ids`; prints both.
    """
    # Said while loading, because `save_pretrained` writes no side that was set afterwards.
    tokenizer = _from_pretrained(AutoTokenizer, backbone, "tokenizer", padding_side="left")
    length = len(tokenizer)
    GillProcessor.extend_tokenizer(tokenizer, list(img_tokens))
    ids = tokenizer.convert_tokens_to_ids(list(img_tokens))
    if ids != list(image_output_token_ids):
        raise ConversionError(
            f"model_args.json gives {', '.join(img_tokens)} the ids {list(image_output_token_ids)}, but in the "
            f"tokenizer of the {backbone}, which knows {length} tokens, they get {ids}; {backbone.flag} names another"
        )
    return tokenizer


def conditioning_shape(backbone: Backbone) -> tuple[int, int]:
    """(L, c) that the image generator is conditioned on: positions of its text encoder, width of its cross-attention.

    Raises:
        ConversionError: it cannot be found or does not say; names it and the flag.
    """
    width = _generator_setting(backbone, "unet", "cross_attention_dim")
    length = _generator_setting(backbone, "text_encoder", "max_position_embeddings")
    return length, width


def _generator_setting(backbone: Backbone, subfolder: str, key: str) -> int:
    try:
        path = cached_file(backbone.name, "config.json", subfolder=subfolder)
        value = json.loads(Path(str(path)).read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError) as error:
        raise _not_found(backbone, f"{subfolder}/config.json", error) from error
    if not isinstance(value, int):
        raise ConversionError(f"the {backbone} has {key} {value!r} in its {subfolder}/config.json, expected one number")
    return value


def _from_pretrained(auto_class: Any, backbone: Backbone, what: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(backbone.name, **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise _not_found(backbone, what, error) from error


def _not_found(backbone: Backbone, what: str, error: Exception) -> ConversionError:
    return ConversionError(
        f"no {what} of the {backbone} could be loaded; {backbone.flag} takes another Hub repository or a folder "
        f"({short_reason(error)})"
    )
