"""Keyword arguments of the processor, for the tokenizer and the image processor, and which of them are refused."""

import difflib
from collections.abc import Mapping
from typing import Any

from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, TextKwargs


class GillProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Keyword arguments of [`GillProcessor.__call__`] for the tokenizer and the image processor."""

    _defaults = {"text_kwargs": {"padding": True}, "common_kwargs": {"return_tensors": "pt"}}


# Texts are tokenized in pieces between the images, which excludes the others of `TextKwargs`.
_TEXT_KWARGS = frozenset(
    {"add_special_tokens", "padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side", "verbose"}
    | {"return_attention_mask", "return_mm_token_type_ids", "return_tensors", "sanitize_control_tokens"}
)


# transformers' pipelines pass this to all processors.
_IGNORED = frozenset({"legacy"})


def check_kwargs(kwargs: Mapping[str, Any], image_processor: Any) -> None:
    """
    Refuse what [`~transformers.ProcessorMixin`] would ignore.

    Args:
        kwargs (`Mapping[str, Any]`): Keyword arguments of [`GillProcessor.__call__`].
        image_processor: The one that some of them are for.

    Raises:
        TypeError: an argument that is not known, with the nearest known one, or that does not go with prompts of texts
            and images.
    """
    own = {"prompt", "text", "images", "add_img_tokens", "split_image_tokens"}
    own |= {"allowed_image_sources", "image_limits", "chat_template_kwargs"}
    image_kwargs = {*ImagesKwargs.__annotations__}
    image_kwargs |= {*getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", ())}
    groups = {"text_kwargs": {*TextKwargs.__annotations__}, "images_kwargs": image_kwargs}
    flat = {*ProcessingKwargs.__annotations__}.union(own, *groups.values())
    given = {name: (value, flat) for name, value in kwargs.items() if name not in _IGNORED}
    for group, known in groups.items():
        given.update({name: (value, known) for name, value in (kwargs.get(group) or {}).items()})
    for name, (value, known) in given.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
            raise TypeError(f"GillProcessor takes no {name!r}{hint}")
        if name in groups["text_kwargs"] - _TEXT_KWARGS - image_kwargs and value:
            raise TypeError(f"GillProcessor takes no {name!r}: texts are tokenized in pieces between the images.")
        if name in ("audio_kwargs", "videos_kwargs") and value:
            raise TypeError(f"GillProcessor takes no {name!r}, only text and images.")


__all__ = ["GillProcessorKwargs", "check_kwargs"]
