"""Refuses files that would take much more memory or time to read than their size justifies.

A pickle of nine bytes can allocate a memo of 8 GiB, a tensor can repeat four bytes a billion times, and the records of
a zip file can expand or overlap. These checks run before a library reads the file.
"""

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch

# Checkpoints do not need longer integers, and Python refuses to print those of more than 4300 digits.
_MAX_INTEGER_BITS = 64
_MAX_DEPTH = 100
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT"}
_MEMO_READS = {"GET", "BINGET", "LONG_BINGET"}
# Instructions that change the object below their arguments.
_CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_MARK = -1


class FileLimitError(ValueError):
    """A file exceeds a limit. The message continues a sentence such as "FILE holds"."""


def check_pickle(
    stream: Any,
    size: int,
    largest_integer: int | None = None,
    max_integer_bits: int = _MAX_INTEGER_BITS,
) -> None:
    """
    Read the opcodes of a pickle without executing them.

    Args:
        stream: A file object or `mmap` at the beginning of the pickle.
        size (`int`): Size of the stream in bytes.
        largest_integer (`int`, *optional*): Refuse integers beyond it, such as numbers of elements.
        max_integer_bits (`int`): Refuse integers with more bits.

    Raises:
        FileLimitError: a memo slot, an integer or a nesting that the size of the file does not justify.
        ValueError: not a pickle, or an incomplete one.
    """
    nesting = _Nesting()
    argument: Any
    for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if name in _MEMO_WRITES and int(argument) > count:
            raise FileLimitError(f"a memo slot {argument} after {count} instructions")
        if name == "FRAME" and argument > size - int(position or 0):
            raise ValueError(f"a frame of {argument} bytes, more than the file has left")
        if type(argument) is int and name not in {"FRAME", "PROTO"}:
            if argument.bit_length() > max_integer_bits:
                raise FileLimitError(f"an integer of {argument.bit_length()} bits")
            if largest_integer is not None and argument > largest_integer:
                raise FileLimitError(f"the number {argument} in a file of {size} bytes")
        nesting.follow(opcode, argument)


class _Nesting:
    """Depth of the objects on an unpickler's stack.

    Python crashes when it hashes tuples in tuples a hundred thousand levels deep, as keys of a dictionary.
    """

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = opcode.name, self.stack
        if name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1] if stack else 0
        elif name in _MEMO_WRITES:
            self.memo[int(argument)] = stack[-1] if stack else 0
        elif name in _MEMO_READS:
            stack.append(self.memo.get(int(argument), 0))
        elif name == "DUP":
            stack.append(stack[-1] if stack else 0)
        else:
            before = opcode.stack_before
            popped: list[int] = []
            if pickletools.markobject in before:
                while stack and stack[-1] != _MARK:
                    popped.append(stack.pop())
                del stack[-1:]
                count = before.index(pickletools.markobject)
            else:
                count = len(before)
            below = stack[-count:] if count else []
            del stack[len(stack) - len(below) :]
            changed = below[0] if below and name in _CHANGES else 0
            popped += below[1:] if name in _CHANGES else below
            depth = max(changed, max(popped) + 1 if popped else 0)
            if depth > _MAX_DEPTH:
                raise FileLimitError(f"objects nested more than {_MAX_DEPTH} deep")
            stack.extend([depth] * len(opcode.stack_after))


def check_legacy_checkpoint(stream: Any, size: int) -> None:
    """Check the pickles of a file of torch before 1.6, or of a single pickled storage.

    Raises:
        FileLimitError, ValueError: as in [`check_pickle`].
    """
    # A magic number of 80 bits, a version and the sizes of types come first, then the content and its keys.
    for _ in range(3):
        check_pickle(stream, size, max_integer_bits=80)
    for _ in range(2):
        check_pickle(stream, size, largest_integer=size)


def check_archive(file: str | Path | IO[bytes], size: int) -> None:
    """
    Check the records of a zip file written by `torch.save`, which neither compresses nor repeats them.

    Args:
        file: The file or its path.
        size (`int`): Its size in bytes.

    Raises:
        FileLimitError: compressed, repeated or overlapping records. zipfile.BadZipFile: not a zip file.
    """
    with zipfile.ZipFile(file) as archive:
        records = sorted(archive.infolist(), key=lambda record: record.header_offset)
        names = {record.filename for record in records}
        if len(names) < len(records):
            raise FileLimitError("several records of the same name")
        for record, after in zip(records, [*records[1:], None], strict=True):
            if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
                raise FileLimitError(f"the compressed record {record.filename}")
            end = size if after is None else after.header_offset
            if record.header_offset + 30 + record.file_size > end:
                raise FileLimitError(f"the record {record.filename} that overlaps others")
        for record in records:
            if record.filename.rpartition("/")[2] == "data.pkl":
                with archive.open(record) as stream:
                    check_pickle(stream, record.file_size)


def check_tensors(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """
    Refuse tensors that repeat elements of their storage.

    Raises:
        FileLimitError: names the tensor.
    """
    for name, tensor in tensors:
        stored = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > stored:
            raise FileLimitError(f"the tensor {name[:100]} of {tensor.numel()} elements in {stored} bytes")


def key_names(keys: Iterable[Any]) -> list[str]:
    """Up to 50 keys of a dictionary, shortened for a message."""
    return [key[:100] if isinstance(key, str) else f"a key that is {type(key).__name__}" for key in keys][:50]


__all__ = ["FileLimitError", "check_archive", "check_legacy_checkpoint", "check_pickle", "check_tensors", "key_names"]
