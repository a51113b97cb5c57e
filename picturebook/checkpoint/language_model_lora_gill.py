"""LoRA weights of the language model, in peft's format, in a folder of the repository.

They are in a folder because transformers takes a repository with `adapter_config.json` in its root for peft weights.
"""

import os
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import cached_file

LORA_FOLDER = "language_model_lora"
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def has_lora(language_model: PreTrainedModel | None) -> bool:
    """Whether a language model carries adapters of peft."""
    return bool(getattr(language_model, "_hf_peft_config_loaded", False))


def load_lora(language_model: PreTrainedModel, name_or_path: Any, folder: str, **options: Any) -> None:
    """Load the LoRA weights of a GILL repository into the frozen language model, in place.

    Args:
        name_or_path (`str` or `os.PathLike`): The GILL repository, a Hub id or a folder.
        folder (`str`): Folder in the repository, `language_model_lora` of its configuration.
        options: Those of `from_pretrained` for access to the Hub; others are ignored.

    Raises:
        OSError: the weights are not there.
        ValueError: the language model carries LoRA already.
    """
    if has_lora(language_model):
        raise ValueError(
            f"{str(name_or_path)!r} has LoRA weights for its language model, but the given one carries LoRA already; "
            "expected the plain language model."
        )
    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    files = [cached_file(name_or_path, f"{folder}/{name}", **hub) for name in _FILES]
    language_model.load_adapter(os.path.dirname(str(files[0])))
    language_model.requires_grad_(False)


def save_lora(language_model: PreTrainedModel, repository: Any, folder: str) -> None:
    """Write the LoRA weights of a language model into a GILL repository."""
    language_model.save_pretrained(os.path.join(repository, folder))


_FILES = ("adapter_config.json", "adapter_model.safetensors")

__all__ = ["LORA_FOLDER", "has_lora", "load_lora", "save_lora"]
