"""Which files a retrieval set may open.

Whoever writes a retrieval set chooses its paths, so a set of a stranger could show any image of this machine and fetch
addresses of its network. A set is therefore opened confined: embedded images, files in its own folder, public URLs.

Sets that this user built are not confined. `RetrievalSet.save` signs the paths with a key that only this user can read
(`HF_HOME/gill/signing_key`), as Jupyter does with notebooks; a signature stays valid when set and images move together.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants

_KEY_BYTES = 32


def sign_paths(base_dir: str, paths: Iterable[str | None]) -> str | None:
    """Sign the paths of a set, and the folder that they start from.

    Returns:
        `str`, *optional*: What [`is_signed`] recognizes; `None` where no key can be kept.
    """
    key = _signing_key(create=True)
    return None if key is None else _digest(key, base_dir, paths)


def is_signed(signature: str | None, base_dir: str, paths: Iterable[str | None]) -> bool:
    """Whether this user signed these paths on this machine."""
    key = _signing_key(create=False)
    if key is None or not signature:
        return False
    return hmac.compare_digest(signature.encode(), _digest(key, base_dir, paths).encode())


def lies_within(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, symbolic links followed; those of the Hub's cache to its blobs are in order.

    Raises:
        ValueError: a name that no file can have.
    """
    roots = [folder]
    # hub/models--org--gill/snapshots/COMMIT/retrieval_set/image.png -> ../../../blobs/HASH
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots":
            roots.append(parent.parent.parent / "blobs")
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def _digest(key: bytes, base_dir: str, paths: Iterable[str | None]) -> str:
    digest = hmac.new(key, digestmod=hashlib.sha256)
    for text in (base_dir, *(path or "" for path in paths)):
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def _signing_key(create: bool) -> bytes | None:
    path = Path(constants.HF_HOME) / "gill" / "signing_key"
    with contextlib.suppress(OSError):
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # A second process that comes first is welcome: both read what is there.
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
        key = path.read_bytes()
        return key if len(key) == _KEY_BYTES else None
    return None


__all__ = ["is_signed", "lies_within", "sign_paths"]
