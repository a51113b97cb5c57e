"""Turn any image held in memory (PIL image, numpy array, torch tensor) into an RGB PIL image."""

import contextlib

import numpy as np
import torch
from PIL import Image, ImageOps

# Tolerance around [0, 1] for rounding errors of resizing and of half precision.
_FLOAT_SLACK = 1e-4
_EXPECTED_ARRAY = (
    "uint8 or float in 0..1, of shape (height, width), (height, width, C) or (C, height, width), C 1, 3 or 4"
)
# An image encoder scales the shorter side up to 224 pixels or more: a line of 1 x 1,000,000 pixels would fill memory.
_MAX_ASPECT_RATIO = 1000


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise `ValueError` for an empty image, more than `max_pixels` pixels, or an aspect ratio above 1000."""
    if min(width, height) < 1:
        raise ValueError(f"it is {width} x {height} pixels, expected at least 1 x 1")
    if width * height > max_pixels:
        raise ValueError(f"it is {width} x {height} pixels, more than the limit of {max_pixels:,} pixels in all")
    if max(width, height) > _MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"it is {width} x {height} pixels, expected at most {_MAX_ASPECT_RATIO} : 1")


def image_to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image: turned as its EXIF data says, what is transparent on white, deeper greys scaled to 8 bits.

    Modes `I` and `F` do not say what is white: `I` is taken as 8 bits if no value is above 255, else as 16 bits;
    `F` as 0..1 if no value is above 1, else as 0..255.

    Raises:
        ValueError: If the values of an `I` or `F` image fit none of these, or Pillow cannot convert the mode.
    """
    image.load()
    with contextlib.suppress(Exception):  # a broken EXIF block does not make the image unreadable
        image = ImageOps.exif_transpose(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        rgb = _integer_grey(values, 65535 if image.mode.startswith("I;16") else None)
        if isinstance(image.info.get("transparency"), int):  # a grey value of a PNG of 16 bits
            rgb.paste("white", mask=Image.fromarray(values == image.info["transparency"]))
    elif image.mode == "F":
        rgb = _float_grey(np.asarray(image))
    elif image.has_transparency_data:
        rgb = _on_white(image)
    elif image.mode == "LAB":
        rgb = _from_lab(image)
    else:
        rgb = image.convert("RGB")
    # No EXIF, transparency or palette note is left that a later reader would apply again.
    rgb.info = {}
    return rgb


def array_to_rgb(array: np.ndarray | torch.Tensor, max_pixels: int) -> Image.Image:
    """An RGB image from an array of one, three or four (RGBA) channels.

    Args:
        array (`numpy.ndarray` or `torch.Tensor`): uint8, or floating point in 0..1. Shape (height, width),
            (height, width, C) or (C, height, width). Where both of the latter fit, numpy arrays are read with the
            channels last and tensors with the channels first; 3 or 4 channels win over 1.
        max_pixels (`int`): Limit on height times width.

    Raises:
        ValueError: For other shapes, dtypes or values, naming what was found.
    """
    channels_first = isinstance(array, torch.Tensor)
    if isinstance(array, torch.Tensor):
        try:
            tensor = array.detach().cpu()
            # numpy has no bfloat16.
            values = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        except (NotImplementedError, RuntimeError, TypeError) as error:  # meta, sparse, quantized
            raise ValueError(f"its values cannot be read ({error}), expected a dense tensor that holds data") from error
    else:
        values = np.asarray(array)
    values = _channels_last(values, channels_first)
    check_size(values.shape[1], values.shape[0], max_pixels)
    pixels = np.ascontiguousarray(_eight_bits(values))
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return image_to_rgb(Image.fromarray(pixels))


def _channels_last(values: np.ndarray, channels_first: bool) -> np.ndarray:
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        for channels in ((3, 4), (1,)):
            last, first = values.shape[2] in channels, values.shape[0] in channels
            if first and (channels_first or not last):
                return values.transpose(1, 2, 0)
            if last:
                return values
    more = "; pass a batch image by image" if values.ndim == 4 else ""
    raise ValueError(f"its shape is {tuple(values.shape)}, expected {_EXPECTED_ARRAY}{more}")


def _eight_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"its dtype is {values.dtype}, expected {_EXPECTED_ARRAY}")
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity, expected floats in 0..1")
    low, high = float(values.min()), float(values.max())
    if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
        raise ValueError(f"its values go from {low:.4g} to {high:.4g}, expected floats in 0..1")
    return np.rint(np.clip(values.astype(np.float32), 0, 1) * 255).astype(np.uint8)


def _integer_grey(values: np.ndarray, white: int | None) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its grey values go from {low} to {high}, expected 0..255 or 0..65535")
    if white is None:
        white = 255 if high <= 255 else 65535
    return Image.fromarray(np.rint(values * (255 / white)).astype(np.uint8)).convert("RGB")


def _float_grey(values: np.ndarray) -> Image.Image:
    if not np.isfinite(values).all():
        raise ValueError("it holds NaN or infinity, expected grey values in 0..1 or 0..255")
    low, high = float(values.min()), float(values.max())
    if low < -_FLOAT_SLACK or high > 255 + _FLOAT_SLACK:
        raise ValueError(f"its grey values go from {low:.4g} to {high:.4g}, expected 0..1 or 0..255")
    scale = 255 if high <= 1 + _FLOAT_SLACK else 1
    return Image.fromarray(np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8)).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    try:
        from PIL import ImageCms
    except ImportError as error:
        raise ValueError("its mode is LAB, which this Pillow cannot convert; expected an RGB image") from error
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None  # only None when asked to convert in place
    return converted


__all__ = ["array_to_rgb", "check_size", "image_to_rgb"]
