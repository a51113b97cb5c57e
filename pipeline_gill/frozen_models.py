"""Parts of frozen models by name and revision, without weights where those are not needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import MODEL_MAPPING, AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel

# Default of `max_new_tokens` in the authors' code.
MAX_NEW_TOKENS = 32
# Of a language model with a chat template, whose own configuration names none: its answers end by themselves.
CHAT_MAX_NEW_TOKENS = 256


class FrozenModelError(ValueError):
    """A frozen model that cannot be loaded; the message names it, the reason, and the option that names another."""


@dataclass(frozen=True)
class FrozenModel:
    """
    Where a frozen model is.

    Attributes:
        role (`str`): What it is to a reader, such as `"language model"`.
        name (`str`): Hub repository, or a folder by its absolute path, see [`full_path`].
        option (`str`): How the user named it and can name another, such as `"--language-model"`.
        revision (`str`, *optional*): Of the repository.
    """

    role: str
    name: str
    option: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.role} {self.name!r}"


def full_path(name: str) -> str:
    """A folder by its absolute path, so that it is the same wherever it is named from; a Hub name as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def load_part(auto_class: Any, model: FrozenModel, what: str, **options: Any) -> Any:
    """
    `auto_class.from_pretrained`, or a function like it, with errors that name the option.

    Args:
        auto_class: A class of transformers, or a function.
        model (`FrozenModel`): Where to load from.
        what (`str`): What is loaded, for the error: `"tokenizer"`, `"configuration"` and so on.

    Raises:
        FrozenModelError: it cannot be found or read.
    """
    load = getattr(auto_class, "from_pretrained", auto_class)
    try:
        return load(model.name, revision=model.revision or "main", **options)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise not_found(model, what, error) from error


def load_vision_config(model: FrozenModel) -> PretrainedConfig:
    """Configuration of the image encoder; of a whole CLIP, that of its vision tower.

    Raises:
        FrozenModelError: it cannot be found.
    """
    config = load_part(AutoConfig, model, "configuration")
    return getattr(config, "vision_config", config)


def load_vision_model(model: FrozenModel, config: PretrainedConfig) -> PreTrainedModel:
    """The image encoder itself, in the dtype that its weights are stored in.

    Raises:
        FrozenModelError: its weights cannot be found, or not all of them.
    """
    loaded, info = load_part(MODEL_MAPPING[type(config)], model, "weights", output_loading_info=True)
    if info["missing_keys"]:
        # They would be random numbers, different every time.
        raise FrozenModelError(f"The weights of the {model} lack {len(info['missing_keys'])} tensors.")
    return loaded


def generation_config(model: FrozenModel, text_config: PretrainedConfig, tokenizer: Any) -> GenerationConfig:
    """
    How answers are generated.

    A language model without a chat template decodes greedily as in the authors' code, and does not stop at the
    end-of-sequence token but at a newline. One with a chat template is generated from as transformers does with it
    alone: by its own `generation_config`, until one of the end tokens of that or of its tokenizer.

    Args:
        model (`FrozenModel`): The language model.
        text_config (`PretrainedConfig`), tokenizer: Its own.
    """
    if tokenizer.chat_template is None:
        return GenerationConfig(
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            bos_token_id=text_config.get_text_config().bos_token_id,
            eos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
    try:
        own = GenerationConfig.from_pretrained(model.name, revision=model.revision or "main")
    except OSError:  # there is none, in which case transformers makes one of the model's configuration
        own = GenerationConfig.from_model_config(text_config)
    fields = own.to_diff_dict()
    for name in ("transformers_version", "_from_model_config", "max_length", "cache_implementation"):
        fields.pop(name, None)
    if not own.do_sample:  # values that do not apply, which cannot be saved
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            fields.pop(name, None)
    ends = [*_as_list(own.eos_token_id), *_as_list(tokenizer.eos_token_id)]
    fields["eos_token_id"] = list(dict.fromkeys(ends)) or None
    fields["pad_token_id"] = tokenizer.pad_token_id
    return GenerationConfig(**{"max_new_tokens": CHAT_MAX_NEW_TOKENS, **fields})


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def not_found(model: FrozenModel, what: str, error: BaseException) -> FrozenModelError:
    """The error that a part of a model could not be loaded, with its reason."""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    revision = f" (revision {model.revision})" if model.revision else ""
    return FrozenModelError(
        f"The {what} of the {model}{revision} could not be loaded: {reason}; {model.option} names another."
    )


__all__ = [
    "FrozenModel",
    "FrozenModelError",
    "full_path",
    "generation_config",
    "load_part",
    "load_vision_config",
    "load_vision_model",
    "not_found",
]
