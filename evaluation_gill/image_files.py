"""Which file of a folder is which image of a data set."""

from collections.abc import Iterable
from pathlib import Path

from modeling_gill.image_loading_gill import IMAGE_SUFFIXES

from .results import LeftOut


class ImageFolder:
    """The images under a folder, by the names of their files without suffix.

    Raises:
        NotADirectoryError: there is no such folder. ValueError: it holds no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder; expected the folder of the images.")
        self.folder = folder
        files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES)
        self._by_name = {path.stem: path for path in files}
        if not self._by_name:
            raise ValueError(f"{folder} holds no image.")

    def find(self, *names: str) -> Path | None:
        """The file with the first of these names that there is."""
        return next((self._by_name[name] for name in names if name in self._by_name), None)


def leave_out_or_refuse(incomplete: Iterable[LeftOut], allowed: bool, whole: int) -> list[LeftOut]:
    """What is incomplete is left out where that is allowed.

    Raises:
        ValueError: it is not allowed, naming the first and how many there are, or nothing would be left.
    """
    found = list(incomplete)
    if found and not allowed:
        raise ValueError(
            f"{found[0].example}: {found[0].reason} ({len(found)} of {whole} examples are incomplete). "
            "`--leave-out-incomplete` measures the others and lists these in the results."
        )
    if len(found) == whole:
        reason = f", the first one because {found[0].reason}" if found else ""
        raise ValueError(f"No example is left to measure of {whole}{reason}.")
    return found


__all__ = ["ImageFolder", "leave_out_or_refuse"]
