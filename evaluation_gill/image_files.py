"""Which file of a folder is which image of a dataset, and whether it can be read."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm

from modeling_gill.image_loading_gill import load_image
from modeling_gill.image_sources_gill import IMAGE_SUFFIXES
from pipeline_gill.caption_files import spellings


class ImageFolder:
    """The images in a folder and its subfolders.

    Raises:
        NotADirectoryError: there is no such folder. ValueError: it holds no image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder; expected the folder of the images.")
        self.folder = folder
        # Each file by its path in the folder, by its name, and by its name without suffix.
        self._by_path: dict[str, list[Path]] = defaultdict(list)
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                self._by_path[path.relative_to(folder).as_posix()].append(path)
                self._by_name[path.name].append(path)
                self._by_stem[path.stem].append(path)
        if not self._by_path:
            raise ValueError(f"{folder} holds no image.")

    def find(self, *names: str) -> Path | None:
        """The file with the first of these names that there is.

        Args:
            names (`str`):
                A path in the folder, or a file's name with or without suffix. Composed and decomposed characters are
                the same, and so are `%20` and a space; a file of exactly this name goes first.

        Raises:
            ValueError: several files have the name; they are listed.
        """
        for name in names:
            for files, wanted in self._lookups(name):
                for keys in ([wanted], spellings(wanted)):
                    found = list(dict.fromkeys(path for key in keys for path in files.get(key, ())))
                    if len(found) > 1:
                        listed = ", ".join(str(path.relative_to(self.folder)) for path in found)
                        raise ValueError(f"{self.folder} holds several images named {name!r}: {listed}; expected one.")
                    if found:
                        return found[0]
        return None

    def _lookups(self, name: str) -> list[tuple[dict[str, list[Path]], str]]:
        last = Path(name).name
        lookups = [(self._by_path, name), (self._by_name, last), (self._by_stem, last)]
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            # The dataset may have been stored in another format.
            lookups.append((self._by_stem, Path(name).stem))
        return lookups


def damaged_images(paths: Iterable[Path], workers: int = 4) -> dict[Path, str]:
    """Decode images, to know before a long run which ones cannot be read. Returns path -> what is wrong with it."""
    unique = list(dict.fromkeys(paths))

    def problem(path: Path) -> str:
        try:
            load_image(path)
        except (ValueError, OSError) as error:
            return f"its image cannot be read: {str(error).replace(str(path), path.name)}"
        return ""

    with ThreadPoolExecutor(workers) as pool:
        problems = tqdm(
            pool.map(problem, unique), "checking images", len(unique), unit="image", disable=None, leave=False
        )
        return {path: text for path, text in zip(unique, problems, strict=True) if text}


__all__ = ["ImageFolder", "damaged_images"]
