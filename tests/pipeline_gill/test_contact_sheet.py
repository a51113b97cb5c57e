"""A contact sheet shows every image whole, and texts where they fit."""

import numpy as np
from PIL import Image

from pipeline_gill.contact_sheet import contact_sheet

RED, WIDE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (400, 100), "blue")


def test_small_images_are_enlarged_without_smoothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    sheet = np.asarray(contact_sheet([[RED, RED], [RED, image]]))
    assert sheet.shape == (272, 272, 3)
    assert (sheet[140:268:4, 140:268:4] == np.asarray(image)).all()
    assert (sheet[143:268:4, 143:268:4] == np.asarray(image)).all()


def test_other_shapes_keep_their_proportions_in_the_middle_of_the_cell() -> None:
    sheet = contact_sheet([[WIDE]], cell=108)
    assert [sheet.getpixel((54, y)) for y in (4, 38, 54, 70, 104)] == [
        (255, 255, 255),
        (255, 255, 255),
        (0, 0, 255),
        (255, 255, 255),
        (255, 255, 255),
    ]


def test_texts_stay_in_their_cell_and_move_no_image() -> None:
    sheet = np.asarray(contact_sheet([["word " * 1000, RED]], text_width=300, cell=100, gap=0))
    assert sheet.shape == (100, 400, 3)
    assert (sheet[:, 300:] == (255, 0, 0)).all() and (sheet[:, :300] < 50).any()


def test_a_missing_image_is_an_empty_box_and_the_chosen_one_is_framed() -> None:
    sheet = contact_sheet([[None, RED]], cell=40, framed=[(0, 1)], headings=("none", "chosen"))
    assert sheet.size == (80, 60)
    assert sheet.getpixel((4, 24)) == (211, 211, 211) and sheet.getpixel((20, 40)) == (255, 255, 255)
    assert sheet.getpixel((44, 24)) == (46, 139, 87) and sheet.getpixel((60, 40)) == (255, 0, 0)
