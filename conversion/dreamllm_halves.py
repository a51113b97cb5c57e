"""Joins the two halves of DreamLLM's first stage, which are trained by separate runs, as the second stage does.

One run learns to draw (queries and creation projector), another to read (comprehension projector). The authors' second
stage takes the plugins' files of both. Both must have seen the same language model and rows of the added tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .dreamllm_files import DIFFUSION, QUERIES, VISION, ReleaseWeights, same_values
from .original_files import ConversionError

_ROWS = ("model.embed_tokens.weight", "lm_head.weight")
_PLUGINS = ("plugins_type", "plugins_init_kwargs")
_OTHER_HALF = "the drawing half, which is taken from the other folder"


def join_configs(
    drawing: Mapping[str, Any], reading: Mapping[str, Any], source: Path, comprehension_source: Path, shared: list[str]
) -> dict[str, Any]:
    """
    `config.json` of both halves as one: the settings of the image encoder are those of the half that reads.

    Args:
        shared (`list[str]`): Fields that both must have alike: those of the language model and its tokens.

    Raises:
        ConversionError: a field of `shared` that differs, or a half without its plugins, by name.
    """
    for name in shared:
        if drawing.get(name) != reading.get(name):
            raise ConversionError(
                f"The halves were trained with different language models: {name} is {drawing.get(name)!r:.100} in "
                f"{source}, and {reading.get(name)!r:.100} in {comprehension_source}"
            )
    joined = dict(drawing)
    for name in _PLUGINS:
        theirs, own = reading.get(name), drawing.get(name)
        if not isinstance(theirs, dict) or VISION not in theirs:
            raise ConversionError(f"{comprehension_source}: {name} lacks {VISION}; expected the half that reads")
        if not isinstance(own, dict) or not {QUERIES, DIFFUSION} <= {*own}:
            raise ConversionError(f"{source}: {name} lacks {QUERIES} or {DIFFUSION}; expected the half that draws")
        joined[name] = {**own, VISION: theirs[VISION]}
    return joined


def join_weights(
    drawing: ReleaseWeights,
    reading: ReleaseWeights,
    source: Path,
    comprehension_source: Path,
    added_tokens: Mapping[str, int],
) -> ReleaseWeights:
    """
    The weights of both halves as one.

    Args:
        added_tokens (`Mapping[str, int]`): The tokens beside LLaMA's, with their ids.

    Raises:
        ConversionError: the halves hold different language models or rows of added tokens, or the second one no
            projector; names what differs.
    """
    if not any(name.startswith("projector.") for name in reading.plugins[VISION]):
        raise ConversionError(f"{comprehension_source} holds no comprehension projector; expected the half that reads")
    if drawing.language_model and reading.language_model:
        _check_same(drawing.language_model, reading.language_model, source, comprehension_source, added_tokens)
    left_out = dict(drawing.left_out)
    left_out |= {f"{comprehension_source.name}: {name}": why for name, why in reading.left_out.items()}
    left_out |= {
        f"{source.name}: {VISION}.{name}": "the reading half, which is taken from the other folder"
        for name in drawing.plugins[VISION]
        if name.startswith(("projector.", "post_layernorm."))
    }
    left_out |= {
        f"{comprehension_source.name}: {plugin}.{name}": _OTHER_HALF
        for plugin in (QUERIES, DIFFUSION)
        for name in reading.plugins[plugin]
        if name.startswith(("projector.", "dream_queries"))
    }
    plugins = {**drawing.plugins, VISION: reading.plugins[VISION]}
    return ReleaseWeights(drawing.language_model or reading.language_model, plugins, left_out)


def _check_same(
    first: Mapping[str, torch.Tensor],
    second: Mapping[str, torch.Tensor],
    source: Path,
    comprehension_source: Path,
    added_tokens: Mapping[str, int],
) -> None:
    between = f"between {source} and {comprehension_source}"
    for name in sorted({*first, *second}):
        ours, theirs = first.get(name), second.get(name)
        if ours is not None and theirs is not None and same_values(ours, theirs):
            continue
        if name in _ROWS and ours is not None and theirs is not None and ours.shape == theirs.shape:
            differing = {token for token, i in added_tokens.items() if not same_values(ours[i], theirs[i])}
            plain = [i for i in range(len(ours)) if i not in {*added_tokens.values()}]
            if same_values(ours[plain], theirs[plain]):
                tokens = ", ".join(token for token in added_tokens if token in differing)
                raise ConversionError(
                    f"The rows of the added tokens {tokens} in {name} differ {between}: the halves were trained with "
                    "different ones (the authors' runs have the same seed, 42)"
                )
        raise ConversionError(
            f"The language models differ {between}, in {name}; the halves of stage I have the same one, which they "
            "leave as it was"
        )


__all__ = ["join_configs", "join_weights"]
