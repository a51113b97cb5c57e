"""Write the captions of a folder of named images, for training and for the gallery.

    python examples/emoji/captions.py emoji/images

`captions.tsv` beside the folder has what the language model reads of each image: its name, put into the chat template
of the recipe as a person's message will be. `names.tsv` has the names alone, which the gallery shows.
"""

import argparse
import sys
from pathlib import Path

from fetch import caption_of
from transformers.utils.chat_template_utils import render_jinja_template

from training_gill import read_recipe

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
RECIPE = Path(__file__).with_name("gallery.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="Folder of images whose names say what they show.")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="Recipe with the chat template.")
    arguments = parser.parse_args()
    try:
        number, names = write_captions(arguments.images, arguments.recipe)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.images.parent}: captions.tsv and names.tsv of {number:,} images with {names:,} names")


def write_captions(images: Path, recipe: Path = RECIPE) -> tuple[int, int]:
    """
    Write `captions.tsv` and `names.tsv` beside a folder of named images.

    Returns:
        Numbers of images and of different names.

    Raises:
        ValueError: no image, or a recipe without a chat template. NotADirectoryError: no such folder.
    """
    if not images.is_dir():
        raise NotADirectoryError(f"{images} is not a folder.")
    files = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(f"{images} has no image in it, expected files named {' '.join(SUFFIXES)}.")
    names = [caption_of(path) for path in files]
    template = read_recipe(recipe, use_cpu=True).model.chat_template
    if template is None:
        raise ValueError(f"{recipe} has no `chat_template`, which says how the language model is asked.")
    for file_name, captions in (("captions.tsv", asked(names, template)), ("names.tsv", names)):
        rows = (
            f"{caption}\t{path.relative_to(images.parent).as_posix()}\n"
            for caption, path in zip(captions, files, strict=True)
        )
        (images.parent / file_name).write_text("".join(["caption\timage\n", *rows]), encoding="utf-8")
    return len(files), len(set(names))


def asked(texts: list[str], template: str) -> list[str]:
    """What the language model reads where a person's message is each of these texts.

    Raises:
        ValueError: a tab or a line break, which a TSV cannot hold.
    """
    chats = [[{"role": "user", "content": text}] for text in texts]
    rendered, _ = render_jinja_template(conversations=chats, chat_template=template, add_generation_prompt=True)
    for text in rendered:
        if len(text.splitlines()) != 1 or "\t" in text:
            raise ValueError(f"The chat template makes {text!r:.80} of a name; expected one line without tabs.")
    return rendered


if __name__ == "__main__":
    main()
