"""Checks settings of the authors' `model_args.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .original_files import ConversionError

# Larger than any size of a model.
_MAX_SIZE = 1_000_000


def positive_int(args: Mapping[str, Any], key: str, path: Path) -> int:
    """
    A setting that is a positive integer.

    Raises:
        ConversionError: it is something else, or too large for a size of a model.
    """
    value = args[key]
    if type(value) is not int or value < 1:
        raise ConversionError(f"{path}: {key} is {value!r:.60}, expected a positive integer")
    if value > _MAX_SIZE:
        raise ConversionError(f"{path}: {key} is {value}, expected at most {_MAX_SIZE}")
    return value


def text(args: Mapping[str, Any], key: str, path: Path) -> str:
    """
    A setting that is a string.

    Raises:
        ConversionError: it is something else, or empty.
    """
    value = args[key]
    if not isinstance(value, str) or not value:
        raise ConversionError(f"{path}: {key} is {value!r}, expected a string")
    return value


def token_ids(args: Mapping[str, Any], key: str, count: int, path: Path) -> list[int]:
    """
    A setting that is a list of `count` different ids, or an id if `count` is 1.

    Raises:
        ConversionError: it is something else.
    """
    value = args[key]
    ids = [value] if type(value) is int else value
    if not isinstance(ids, list) or any(type(i) is not int or i < 0 for i in ids) or len(set(ids)) != len(ids):
        raise ConversionError(f"{path}: {key} is {value!r}, expected {count} different token ids")
    if len(ids) != count:
        raise ConversionError(f"{path}: {key} holds {len(ids)} token ids, expected {count}")
    return ids


def refuse_settings(args: Mapping[str, Any], only_values: Mapping[str, Any], path: Path) -> None:
    """
    Refuse settings with which the converted model would not compute what the checkpoint does.

    Raises:
        ConversionError: lists the keys of `only_values` that have another value.
    """
    wrong = [
        f"{key} is {args[key]!r} (only {value!r} can be converted)"
        for key, value in only_values.items()
        if key in args and args[key] != value
    ]
    if wrong:
        raise ConversionError(f"{path}: {'; '.join(wrong)}")
