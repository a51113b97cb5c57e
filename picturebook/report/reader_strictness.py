"""How strict the reader is: how much of what it reads right is left when images are blurred, noisy or blended.

python -m picturebook.strictness
"""

import numpy as np
from PIL import Image, ImageFilter

from ..world.pairs import sample_pairs
from ..world.reader import ATTRIBUTES, correctness, read
from ..world.scene import Scene
from ..world.splits import TEST, stream

_NUMBER = 2_000


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


def main() -> None:
    """Print a table in Markdown, over test images with jitter."""
    pairs = sample_pairs(TEST, _NUMBER, stream(1, TEST, "strictness"))
    images, scenes, generator = pairs.images / 255, pairs.scenes, stream(1, TEST, "noise")
    noise, softness = generator.normal(size=images.shape), blurred(images, 1) - images
    columns = ("scene", *ATTRIBUTES)
    print(f"| pictures | {' | '.join(columns)} | surely wrong |\n|---|{'---:|' * (len(columns) + 1)}")

    def row(name: str, shown: np.ndarray) -> None:
        readings = read(shown)
        found = correctness(readings, scenes)
        wrong = [one is not None and one != scene for one, scene in zip(readings.scenes(), scenes, strict=True)]
        correct_shares = [*(found[column].mean() for column in columns), np.mean(wrong)]
        print(f"| {name} | {' | '.join(f'{100 * rate:.1f}' for rate in correct_shares)} |", flush=True)

    row("as drawn", images)
    for decibels in (30, 25, 23, 20):
        row(f"white noise, {decibels} dB", with_error(images, noise, decibels))
    for decibels in (30, 28, 26, 24):
        row(f"softened, {decibels} dB", with_error(images, softness, decibels))
    for decibels in (32, 30, 28, 26):
        row(f"only things softened, {decibels} dB", soften_objects(images, scenes, decibels))
    for radius in (0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 2.0):
        row(f"blurred, radius {radius}", blurred(images, radius))
    order = np.roll(np.arange(_NUMBER), 1)
    for share in (0.1, 0.2, 0.3, 0.35, 0.5):
        row(f"{100 * share:.0f} % of another picture", (1 - share) * images + share * images[order])


if __name__ == "__main__":
    main()
