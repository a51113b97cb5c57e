"""Checks single settings of the authors' `model_args.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .original_files import ConversionError

# No size of a model is larger.
_MAX_SIZE = 1_000_000


def positive_int(args: Mapping[str, Any], key: str, path: Path) -> int:
    """The number that `key` holds.

    Raises:
        ConversionError: it is no positive integer.
    """
    value = args[key]
    if type(value) is not int or value < 1:
        raise ConversionError(f"{path}: {key} is {value!r:.60}, expected a positive integer")
    if value > _MAX_SIZE:
        raise ConversionError(f"{path}: {key} is {value}, expected at most {_MAX_SIZE}")
    return value


def text(args: Mapping[str, Any], key: str, path: Path) -> str:
    """The text that `key` holds.

    Raises:
        ConversionError: it is no text, or an empty one.
    """
    value = args[key]
    if not isinstance(value, str) or not value:
        raise ConversionError(f"{path}: {key} is {value!r}, expected a text")
    return value


def token_ids(args: Mapping[str, Any], key: str, count: int, path: Path) -> list[int]:
    """The `count` different ids that `key` holds; one alone may stand without a list.

    Raises:
        ConversionError: it holds anything else.
    """
    value = args[key]
    ids = [value] if type(value) is int else value
    if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids) or len(set(ids)) != len(ids):
        raise ConversionError(f"{path}: {key} is {value!r}, expected {count} different token ids")
    if len(ids) != count:
        raise ConversionError(f"{path}: {key} holds {len(ids)} token ids, expected {count}")
    return ids


def refuse_settings(args: Mapping[str, Any], only_values: Mapping[str, Any], path: Path) -> None:
    """Refuses settings under which the checkpoint would compute something else than the converted model does.

    Raises:
        ConversionError: keys of `only_values` that are there with another value; all are named.
    """
    wrong = [
        f"{key} is {args[key]!r} (only {value!r} can be converted)"
        for key, value in only_values.items()
        if key in args and args[key] != value
    ]
    if wrong:
        raise ConversionError(f"{path}: {'; '.join(wrong)}")
