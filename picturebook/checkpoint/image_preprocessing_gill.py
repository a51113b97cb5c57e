"""Prepare images for an image encoder."""

from collections.abc import Sequence
from typing import Any

import transformers
from transformers import AutoImageProcessor

# Switches of image processors that cut an image into several.
_CUTTING = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")


def load_image_processor(name: Any, **options: Any) -> Any:
    """
    Load the preprocessing of an image encoder. Pillow resizes as the authors' code did; torchvision, where it is
    installed, gives other pixels. What cuts an image into several is switched off.

    Args:
        name (`str` or `os.PathLike`): Hub repository or folder.
        options: Those of `AutoImageProcessor.from_pretrained`.
    """
    options["backend"] = options.get("backend") or "pil"
    image_processor = AutoImageProcessor.from_pretrained(name, **options)
    for switch in _CUTTING:
        if getattr(image_processor, switch, False):
            setattr(image_processor, switch, False)
    return image_processor


def with_pil(image_processor: Any) -> Any:
    """An image processor that uses Pillow, as the one that is loaded from a repository does, in place of one that
    uses torchvision."""
    if getattr(image_processor, "backend", None) != "torchvision":
        return image_processor
    pil_class = getattr(transformers, f"{type(image_processor).__name__}Pil", None)
    return image_processor if pil_class is None else pil_class.from_dict(image_processor.to_dict())


def preprocess_images(image_processor: Any, images: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
    """
    Prepare images for the encoder.

    Args:
        images (`Sequence[PIL.Image.Image]`)
        kwargs: Those of the image processor; `return_tensors` defaults to `"pt"`.

    Returns:
        `dict`: `pixel_values` and whatever else the encoder needs, with one row for each image.

    Raises:
        ValueError: an image processor that cuts an image into several.
    """
    kwargs.setdefault("return_tensors", "pt")
    prepared = dict(image_processor(images=list(images), **kwargs))
    values = prepared["pixel_values"]
    crops = values.shape[1] if getattr(values, "ndim", 0) == 5 else 1
    if len(values) != len(images) or crops != 1:
        raise ValueError(
            f"{type(image_processor).__name__} cuts {len(images)} images into {len(values) * crops}, and an image is "
            "read as one; expected an image processor that does not cut, such as that of the image encoder alone."
        )
    if getattr(values, "ndim", 0) == 5:
        prepared = {
            name: value[:, 0] if getattr(value, "ndim", 0) > 2 and value.shape[1] == 1 else value
            for name, value in prepared.items()
        }
    return prepared


__all__ = ["load_image_processor", "preprocess_images", "with_pil"]
