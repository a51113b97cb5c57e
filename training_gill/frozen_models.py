"""Parts of the frozen models by name and revision, without their weights where those are not needed."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PretrainedConfig
from transformers.utils import cached_file

from .recipe import RecipeError


def full_name(name: str) -> str:
    """A folder by its full path, for a repository must not depend on where it is opened from; a Hub name as it is."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def load_part(auto_class: Any, role: str, name: str, revision: str | None, **options: Any) -> Any:
    """
    `auto_class.from_pretrained`, with errors that name the entry of the recipe.

    Args:
        auto_class: Of transformers.
        role (`str`): Entry of the recipe, `language_model` and so on.
        name (`str`): Hub repository or folder.
        revision (`str`, *optional*): Of it.

    Raises:
        RecipeError: it cannot be found or read.
    """
    try:
        return auto_class.from_pretrained(name, revision=revision or "main", **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _not_found(role, name, revision, error) from error


def load_vision_config(name: str, revision: str | None) -> PretrainedConfig:
    """Configuration of the image encoder; of a whole CLIP, that of its vision tower.

    Raises:
        RecipeError: it cannot be found.
    """
    config = load_part(AutoConfig, "vision_model", name, revision)
    return getattr(config, "vision_config", config)


def conditioning_shape(name: str, revision: str | None) -> tuple[int, int]:
    """(L, c) that the image generator is conditioned on: positions of its text encoder, width of its cross-attention.

    Raises:
        RecipeError: it cannot be found or does not say.
    """
    found = []
    for folder, key in (("text_encoder", "max_position_embeddings"), ("unet", "cross_attention_dim")):
        try:
            path = cached_file(name, f"{folder}/config.json", revision=revision or "main")
            value = json.loads(Path(str(path)).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError) as error:
            raise _not_found("image_generator", name, revision, error) from error
        if not isinstance(value, int):
            raise RecipeError(
                f"`image_generator` {name!r} has {key} {value!r} in {folder}/config.json; expected one number."
            )
        found.append(value)
    return found[0], found[1]


def _not_found(role: str, name: str, revision: str | None, error: BaseException) -> RecipeError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return RecipeError(f"`{role}` {name!r} (revision {revision or 'main'}) could not be loaded: {reason}")


__all__ = ["conditioning_shape", "full_name", "load_part", "load_vision_config"]
