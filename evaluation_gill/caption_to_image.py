"""Captions of COCO or CC3M: generate the image of each (FID, CLIP similarity), or retrieve it among all."""

import random

from .arguments import CaptionToImageOptions
from .captions import Caption, read_captions
from .results import Results
from .tasks import Item, data_protocol, find_images, generate_or_retrieve


def run(options: CaptionToImageOptions) -> Results:
    """Evaluate; see [`~evaluation_gill.evaluate`]."""
    captions = read_captions(options.annotations)
    items = [
        Item(
            label=f"caption {caption.name}",
            name=caption.name,
            pieces=(caption.text,),
            target=(caption.image,),
            text=caption.text,
        )
        for caption in _sample(captions, options)
    ]
    protocol = {
        **data_protocol("captions", options),
        "sample": "all, in the file's order" if options.sample is None else f"{options.sample}, seed {options.seed}",
        "context": "caption alone",
        "captions_per_image": "one" if options.one_per_image else "all",
    }
    found = find_images(options, items, [(caption.image,) for caption in captions])
    return generate_or_retrieve(options, "captions", found, protocol, "none")


def _sample(captions: list[Caption], options: CaptionToImageOptions) -> list[Caption]:
    if options.one_per_image:
        captions = list({caption.image: caption for caption in reversed(captions)}.values())[::-1]
    if options.sample is not None:
        if options.sample > len(captions):
            raise ValueError(f"The sample of {options.sample} is more than the {len(captions)} captions there are.")
        captions = random.Random(options.seed).sample(captions, options.sample)
    return captions[: options.limit]


__all__ = ["run"]
