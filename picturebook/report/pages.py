"""HTML pages that hold everything they show: jinja templates of this folder, images as data URIs."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from modeling_gill.atomic_write_gill import replace_file

from ..world.drawing import png_bytes


def write_page(path: Path, template: str, **context: Any) -> None:
    """
    Render a template to a file and print its address.

    Args:
        path (`Path`): The file.
        template (`str`): Name of the template without `.html.jinja`.
        context: Variables of the template. Text is escaped.
    """
    page = _environment().get_template(f"{template}.html.jinja").render(**context)
    with replace_file(path) as new:
        new.write_text(page + "\n", encoding="utf-8")
    print(f"The page: {path.resolve().as_uri()}")


def data_uri(image: np.ndarray | Image.Image) -> str:
    """A uint8 image of shape `(height, width, 3)` or a PIL image as the `src` of an `<img>`."""
    pixels = np.asarray(image.convert("RGB")) if isinstance(image, Image.Image) else image
    return f"data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment
