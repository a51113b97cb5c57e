"""Reads a SentencePiece `tokenizer.model` of LLaMA's kind: byte-pair encoding with byte fallback.

The file is a protobuf message. Its fields are read here, as their `sentencepiece_model.proto` numbers them, so that
neither `sentencepiece` nor `protobuf` has to be installed. Sizes in the file are checked against its length.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .original_files import ConversionError

# LLaMA's file has half a megabyte.
_MAX_BYTES = 64 * 2**20
# The trainer's own limit is 16 characters.
_MAX_PIECE_LENGTH = 256
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6
_KINDS = {4: "a user-defined piece", 5: "an unused piece"}
_BPE = 2
_SPACE = "\u2581"
# Field of the trainer or the normalizer: its number, its value where the file has none, and the only one that is read.
_TRAINER = {"model_type": (3, 1, _BPE), "treat_whitespace_as_suffix": (24, 0, 0), "byte_fallback": (35, 0, 1)}
_NORMALIZER = {
    "name": (1, b"", b"identity"),
    "precompiled_charsmap": (2, b"", b""),
    "add_dummy_prefix": (3, 1, 1),
    "remove_extra_whitespaces": (4, 1, 0),
    "escape_whitespaces": (5, 1, 1),
    "normalization_rule_tsv": (6, b"", b""),
}


@dataclass(frozen=True)
class SentencePieceModel:
    """
    The vocabulary of a SentencePiece model.

    Attributes:
        vocabulary (`dict[str, int]`): Pieces and their ids, those of bytes (`<0x0A>`) and controls included.
        merges (`list[tuple[str, str]]`): Pairs of pieces, in the order in which they are merged.
        unknown (`str`): The piece for what cannot be encoded.
        controls (`list[str]`): Control pieces such as `<s>`.
    """

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    unknown: str
    controls: list[str]


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """
    Read a `tokenizer.model`.

    Raises:
        ConversionError: the file is missing or damaged, or is a model of another kind, naming the setting.
    """
    if not path.is_file():
        raise ConversionError(f"{path} is missing: the SentencePiece model of the tokenizer")
    if path.stat().st_size > _MAX_BYTES:
        raise ConversionError(f"{path} has {path.stat().st_size} bytes, expected at most {_MAX_BYTES}")
    try:
        return _model_of(path.read_bytes())
    except (ValueError, struct.error) as error:
        raise ConversionError(f"{path} is not a SentencePiece model of LLaMA's kind: {error}") from error


def _model_of(content: bytes) -> SentencePieceModel:
    pieces: list[tuple[str, float, int]] = []
    # A message that is written in several parts is the sum of them.
    parts = {2: b"", 3: b""}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_piece(_message(value)))
        elif number in parts:
            parts[number] += _message(value)
    _check(dict(_fields(parts[2])), _TRAINER)
    _check(dict(_fields(parts[3])), _NORMALIZER)
    vocabulary = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    if len(vocabulary) < len(pieces):
        raise ValueError("a piece occurs twice")
    unknown = [piece for piece, _, kind in pieces if kind == _UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"{len(unknown)} unknown pieces, expected one")
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        raise ValueError(f"{len(missing)} bytes have no piece, such as {missing[0]}")
    return SentencePieceModel(
        vocabulary,
        _merges({piece: score for piece, score, kind in pieces if kind == _NORMAL}),
        unknown[0],
        [piece for piece, _, kind in pieces if kind == _CONTROL],
    )


def _piece(content: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(content))
    piece = _message(fields.get(1, b"")).decode("utf-8")
    if not 0 < len(piece) <= _MAX_PIECE_LENGTH:
        raise ValueError(f"a piece of {len(piece)} characters, expected 1 to {_MAX_PIECE_LENGTH}")
    score, kind = fields.get(2, 0.0), fields.get(3, _NORMAL)
    if kind not in (_NORMAL, _UNKNOWN, _CONTROL, _BYTE):
        raise ValueError(f"{piece!r} is {_KINDS.get(kind, f'of the kind {kind}')}, which cannot be converted")
    if not isinstance(score, float) or score != score:
        raise ValueError(f"{piece!r} has the score {score}, expected a number")
    return piece, score, kind


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece; those of the piece with the highest score come first."""
    found = [
        (-score, -cut, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    # `sorted` keeps pieces of the same score in the order of their ids.
    return [(left, right) for _, _, left, right in sorted(found, key=lambda pair: pair[:2])]


def _check(fields: dict[int, Any], only: dict[str, tuple[int, Any, Any]]) -> None:
    for name, (number, default, expected) in only.items():
        found = fields.get(number, default)
        if found != expected:
            raise ValueError(f"{name} is {found!r:.60}, only {expected!r} can be converted")


def _message(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"a field holds {value!r:.60}, expected bytes")
    return value


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an integer, a float of 32 bits, or bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        number, wire = key >> 3, key & 7
        value: Any
        if wire == 0:
            value, place = _varint(content, place)
        elif wire == 2:
            size, place = _varint(content, place)
            value, place = _take(content, place, size)
        elif wire == 5:
            raw, place = _take(content, place, 4)
            value = struct.unpack("<f", raw)[0]
        elif wire == 1:
            value, place = _take(content, place, 8)
        else:
            raise ValueError(f"a field of the wire type {wire}")
        yield number, value


def _take(content: bytes, place: int, size: int) -> tuple[bytes, int]:
    if size > len(content) - place:
        raise ValueError(f"it ends after {len(content) - place} of {size} bytes")
    return content[place : place + size], place + size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("it ends within a number")
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")


__all__ = ["SentencePieceModel", "read_sentencepiece_model"]
