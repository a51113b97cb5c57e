"""LoRA on the language model, as peft saves it, in a folder of its own beside the adapters.

In a folder of its own because `adapter_config.json` in the root would make the whole repository one of peft's.
"""

import os
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

LORA_FOLDER = "language_model_lora"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def has_lora(language_model: PreTrainedModel | None) -> bool:
    """Whether adapters of peft are on a language model."""
    return bool(getattr(language_model, "_hf_peft_config_loaded", False))


def load_lora(language_model: PreTrainedModel, name_or_path: Any, folder: str, **options: Any) -> None:
    """Put the LoRA of a GILL repository on the frozen language model, which is changed in place.

    Args:
        name_or_path (`str` or `os.PathLike`): The GILL repository, on the Hub or a folder.
        folder (`str`): Within it, `language_model_lora` in its configuration.
        options: Those of `from_pretrained` that say how to reach the Hub; others are ignored.

    Raises:
        OSError: the LoRA is not there.
        ValueError: the language model carries another already.
    """
    if has_lora(language_model):
        raise ValueError(
            f"{str(name_or_path)!r} brings LoRA for its language model, but the one that was given carries LoRA "
            "already; expected the plain language model."
        )
    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    files = [cached_file(name_or_path, f"{folder}/{name}", **hub) for name in _FILES]
    language_model.load_adapter(os.path.dirname(str(files[0])))
    language_model.requires_grad_(False)


def save_lora(language_model: PreTrainedModel, repository: Any, folder: str) -> None:
    """Write the LoRA of a language model into a GILL repository."""
    language_model.save_pretrained(os.path.join(repository, folder))


_FILES = ("adapter_config.json", "adapter_model.safetensors")

__all__ = ["LORA_FOLDER", "has_lora", "load_lora", "save_lora"]
