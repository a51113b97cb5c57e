"""Images as a generator is to draw them: what the denoising loss compares with."""

import torch
from PIL import Image

from modeling_gill.image_loading_gill import MAX_PIXELS, ImageError


def target_image(image: Image.Image, size: int) -> torch.Tensor:
    """
    An image as a generator is to draw it: its shorter side scaled to `size` (bilinear), cut to a square in the middle.

    Returns:
        `torch.Tensor` of shape `(3, size, size)`, float32 in [-1, 1].

    Raises:
        ImageError: it is so much longer than wide that it would be too large.
    """
    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    if longer * size > MAX_PIXELS:
        raise ImageError(f"it is {width} x {height} pixels, which scaled to {size} would be {longer} long")
    scaled = (size, longer) if width <= height else (longer, size)
    resized = image.resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    square = resized.crop((left, top, left + size, top + size))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).view(size, size, 3)
    return (pixels.permute(2, 0, 1).float() / 255 - 0.5) / 0.5


__all__ = ["target_image"]
