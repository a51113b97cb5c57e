"""Images distorted as by models: blurred, noisy, or soft where objects are."""

import numpy as np
from PIL import Image, ImageFilter

from picturebook.world.scene import Scene


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    """Images blurred by a Gaussian.

    Args:
        images: Values 0 to 1, `(images, 32, 32, 3)`.
        radius (`float`): Standard deviation, in pixels.
    """
    whole = np.round(images * 255).astype(np.uint8)
    return np.stack([np.array(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in whole]) / 255


def with_error(images: np.ndarray, error: np.ndarray, decibels: float) -> np.ndarray:
    """Images with an error added, scaled to a peak signal-to-noise ratio over all of them."""
    return np.clip(images + error * 10 ** (-decibels / 20) / np.sqrt((error**2).mean()), 0, 1)


def soften_objects(images: np.ndarray, scenes: tuple[Scene, ...], decibels: float) -> np.ndarray:
    """Images as an autoencoder leaves them that knows the backgrounds by heart: every error is where an object is."""
    alone = {
        name: np.median(images[[scene.background == name for scene in scenes]], axis=0)
        for name in {scene.background for scene in scenes}
    }
    covered = np.stack(
        [
            (abs(image - alone[scene.background]) > 1e-6).any(axis=-1, keepdims=True)
            for image, scene in zip(images, scenes, strict=True)
        ]
    )
    return with_error(images, (blurred(images, 1) - images) * covered, decibels)
