"""What an image generator's own call makes of prompts, observed while it runs.

No pipeline of diffusers is named here. A generator's own `__call__` encodes prompts with `encode_prompt` and takes the
results as arguments; the variables that it assigns them to have the names of those arguments. They are read there, not
by calling `encode_prompt`, because `__call__` has defaults of its own, such as an instruction before the prompt.
"""

import ast
import inspect
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from types import CodeType
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from .generator_call_gill import NEGATIVE, call_parameters, copy_generator, refusal

A_PROMPT = "a red house"
# Arguments of pipelines whose output is a video or sound.
_OF_OTHER_MEDIA = ("num_frames", "audio_length_in_s", "audio_end_in_s", "num_waveforms_per_prompt")
# Python 3.11 fails when several threads parse at once (https://github.com/python/cpython/issues/106905).
_parsing = threading.Lock()
# One thread at a time encodes: the padding of a fast tokenizer is state of the tokenizer, and verbosity of the process.
_encoding = threading.RLock()


class _EncodedError(Exception):
    """Ends a call of a generator once its prompts are encoded."""


@torch.no_grad()
def encode_prompts(generator: Any, prompts: list[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """The encoded prompts by the name of the argument that takes them, as `encode_prompt` returned them."""
    generator = copy_generator(generator)
    parameters, encoded = call_parameters(generator), dict[str, Any]()
    if "prompt" not in parameters:
        raise refusal(generator, "its call takes no `prompt`")
    others = [name for name in _OF_OTHER_MEDIA if name in parameters]
    if others:
        raise refusal(generator, f"its call takes `{others[0]}`, so that what it generates is no image")
    pipelines = [generator, *(part for part in vars(generator).values() if isinstance(part, DiffusionPipeline))]
    if not any(hasattr(pipeline, "encode_prompt") for pipeline in pipelines):
        raise refusal(generator, "it has no `encode_prompt`")
    for pipeline in pipelines:
        _observe(pipeline, encoded, parameters)
    try:
        with one_at_a_time():
            generator(prompt=list(prompts), **call)
    except _EncodedError:
        pass
    finally:
        generator.maybe_free_model_hooks()
    return {name: value for name, value in encoded.items() if name in parameters and value is not None}


def encode_negatives(
    generator: Any, negative_prompt: str | None, call: Mapping[str, Any], num_prompts: int = 1
) -> tuple[dict[str, Any], str | None]:
    """What a generator guides away from, if it does, and the negative prompt that it did so for."""
    # Some guide only if they get a negative prompt, be it empty.
    for text in (None, "") if negative_prompt is None else (negative_prompt,):
        if text is None or "negative_prompt" in call_parameters(generator):
            given = {} if text is None else {"negative_prompt": [text] * num_prompts}
            encoded = encode_prompts(generator, [A_PROMPT] * num_prompts, {**call, **given})
            if any(name.startswith(NEGATIVE) for name in encoded):
                return encoded, text
    return {}, None


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """One thread at a time, without warnings.

    They name every word of a prompt that is too long, and captions come in millions.
    """
    libraries = (diffusers_logging, transformers_logging)
    with _encoding:
        levels = [library.get_verbosity() for library in libraries]
        for library in libraries:
            library.set_verbosity_error()
        try:
            yield
        finally:
            for library, level in zip(libraries, levels, strict=True):
                library.set_verbosity(level)


def _observe(pipeline: Any, encoded: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """Note what `encode_prompt` returns, and end the call at `prepare_latents`, or before the first step of a pipeline
    that has none (DeepFloyd IF).

    Args:
        encoded: Takes what is returned, by name.
        parameters: Those of the generator's call, whose names are preferred.
    """
    if not hasattr(pipeline, "encode_prompt"):
        return
    encode_prompt = pipeline.encode_prompt

    def observed(*args: Any, **kwargs: Any) -> Any:
        returned = encode_prompt(*args, **kwargs)
        caller = sys._getframe(1)
        with _parsing:
            assigned = _names_assigned_at(caller.f_code, caller.f_lineno)
            stood_for = _argument_stood_for_at(caller.f_code, caller.f_lineno)
            own = _names_returned_by(inspect.unwrap(getattr(encode_prompt, "__func__", encode_prompt)))
        values = returned if isinstance(returned, tuple) else (returned,)
        for place, (name, value) in enumerate(zip(assigned, values, strict=False)):
            # What it is assigned to, what `encode_prompt` itself calls it, or what is taken if it was given.
            names = (name, own[place] if len(own) == len(values) else "", stood_for if len(values) == 1 else "")
            encoded[next((one for one in names if one in parameters), name)] = value
        return returned

    def end(*args: Any, **kwargs: Any) -> None:
        raise _EncodedError

    vars(pipeline)["encode_prompt"] = observed
    vars(pipeline)["prepare_latents"] = vars(pipeline)["progress_bar"] = end


@lru_cache
def _names_assigned_at(code: CodeType, line: int) -> list[str]:
    """The variables that the statement at a line of a file assigns to, which is in the code of a function."""
    node = _assignment_at(_syntax_of(code), line - code.co_firstlineno + 1)
    if node is None:
        return []
    target = node.targets[0]
    return [ast.unparse(name) for name in (target.elts if isinstance(target, ast.Tuple) else [target])]


@lru_cache
def _argument_stood_for_at(code: CodeType, line: int) -> str:
    """The variable without which the statement at a line of a file runs: `x` in `if x is not None: ... else: ...`."""
    tree, found = _syntax_of(code), ""
    node = _assignment_at(tree, line - code.co_firstlineno + 1)
    # From the outside in: the last one is the nearest.
    for branch in ast.walk(tree):
        if isinstance(branch, ast.If) and node is not None and isinstance(branch.test, ast.Compare):
            test, is_not = branch.test, isinstance(branch.test.ops[0], ast.IsNot)
            without = branch.orelse if is_not else branch.body if isinstance(test.ops[0], ast.Is) else []
            of_none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
            if of_none and isinstance(test.left, ast.Name) and any(node in ast.walk(part) for part in without):
                found = test.left.id
    return found


@lru_cache
def _names_returned_by(function: Any) -> list[str]:
    """The variables that the last statement of a function returns; an empty name for anything else."""
    try:
        last = _syntax_of(function.__code__).body[0].body[-1]  # type: ignore[attr-defined]
    except (AttributeError, OSError, IndexError):  # no function of Python, or no source
        return []
    value = last.value if isinstance(last, ast.Return) else None
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    # `x if condition else None` is called `x`.
    values = [part.body if isinstance(part, ast.IfExp) else part for part in values]
    return [part.id if isinstance(part, ast.Name) else "" for part in values]


@lru_cache
def _syntax_of(code: CodeType) -> ast.Module:
    return ast.parse(textwrap.dedent("".join(inspect.getsourcelines(code)[0])))


def _assignment_at(tree: ast.Module, line: int) -> ast.Assign | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and node.lineno <= line <= (node.end_lineno or node.lineno):
            return node
    return None


__all__ = ["A_PROMPT", "encode_negatives", "encode_prompts", "one_at_a_time"]
