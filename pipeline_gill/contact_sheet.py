"""Contact sheets: images and texts in a grid on one image, for training, model cards and the picture book."""

import textwrap
from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw, ImageFont

_HEADING_HEIGHT, _LINE_HEIGHT, _CHARACTER_WIDTH = 20, 14, 7


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | str | None]],
    *,
    cell: int = 136,
    gap: int = 8,
    text_width: int | None = None,
    headings: Sequence[str] = (),
    framed: Collection[tuple[int, int]] = (),
) -> Image.Image:
    """
    Draw a grid of images and texts.

    Args:
        rows: The cells of each row, at least one row: an image, a text that is wrapped and cut to its cell, or `None`
            for an empty box. Rows may be of different lengths.
        cell (`int`): Width and height of a cell in pixels. An image fills it up to the gap; one that is enlarged more
            than twice is not smoothed.
        gap (`int`): Pixels between images.
        text_width (`int`, *optional*): Width of a column whose first cell is a text; by default `cell`.
        headings: Texts above the columns.
        framed: Row and column of cells that get a green frame.

    Returns:
        `PIL.Image.Image`: The sheet, in RGB.

    Example:

        >>> from pipeline_gill.contact_sheet import contact_sheet
        >>> image = Image.new("RGB", (32, 32))
        >>> contact_sheet([["a caption", image], ["another", None]], headings=("caption", "image")).size
        (272, 292)
    """
    first = max(rows, key=len)
    widths = [text_width or cell if isinstance(content, str) else cell for content in first]
    top = _HEADING_HEIGHT if headings else 0
    sheet = Image.new("RGB", (sum(widths), top + cell * len(rows)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    starts = [sum(widths[:column]) for column in range(len(widths))]
    for x, heading in zip(starts, headings, strict=False):
        pen.text((x + gap // 2, 4), heading, fill="dimgrey", font=font)
    for row, contents in enumerate(rows):
        for column, content in enumerate(contents):
            x, y = starts[column] + gap // 2, top + row * cell + gap // 2
            box = (x, y, x + cell - gap - 1, y + cell - gap - 1)
            if isinstance(content, str):
                wrapped = [
                    line
                    for paragraph in content.split("\n")
                    for line in textwrap.wrap(paragraph, widths[column] // _CHARACTER_WIDTH) or [""]
                ]
                pen.multiline_text((x, y), "\n".join(wrapped[: cell // _LINE_HEIGHT]), fill="black", font=font)
            elif content is None:
                pen.rectangle(box, outline="lightgrey")
            else:
                image = _fit(content.convert("RGB"), cell - gap)
                sheet.paste(image, (x + (cell - gap - image.width) // 2, y + (cell - gap - image.height) // 2))
            if (row, column) in framed:
                pen.rectangle(box, outline="seagreen", width=4)
    return sheet


def _fit(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)
