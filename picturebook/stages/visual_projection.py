"""Fit of the visual projection: visual tokens imitate the words that stand for images in the language model's text.

Trained by the captioning loss alone, the norm of visual tokens grows to thirty times that of word embeddings. Captions
after an image are good then, but the layers cannot treat such tokens as words, and a story that continues after an
image is lost. So the projection is fitted in closed form, by least squares over single pairs of an image and its full
caption, to the embeddings of the image in words.
"""

import torch

from modeling_gill import GillForConditionalGeneration, GillProcessor

from ..world.documents import image_in_words
from ..world.drawing import to_images
from ..world.pairs import PairMixture, sample_pairs
from ..world.splits import TRAIN, stream

_PAIRS, _BATCH, _RIDGE = 6_000, 500, 1e-3


@torch.no_grad()
def fit_visual_projection(model: GillForConditionalGeneration, processor: GillProcessor, seed: int) -> None:
    """Fit the visual projection of a model in place.

    Args:
        model ([`GillForConditionalGeneration`]): With both backbones; it takes as many visual tokens an image as stand
            for one in the language model's text.
    """
    words = model.language_model.get_input_embeddings().weight
    features, targets = [], []
    for number in range(_PAIRS // _BATCH):
        mixture = PairMixture(single_share=0.2, plain_share=1.0, partial_share=0.0)
        pairs = sample_pairs(TRAIN, _BATCH, stream(seed, TRAIN, f"pairs to read {number}"), mixture)
        values = processor.image_processor(images=to_images(pairs.images), return_tensors="pt")["pixel_values"]
        features.append(model.get_image_features(values.to(model.device, model.dtype)).pooler_output.double())
        ids = processor.tokenizer([image_in_words(scene) for scene in pairs.scenes], return_tensors="pt").input_ids
        targets.append(words[ids.to(words.device)].flatten(1).double())
    seen, said = torch.cat(features), torch.cat(targets)
    seen = torch.cat([seen, seen.new_ones(len(seen), 1)], dim=1)
    ridge = _RIDGE * torch.eye(seen.shape[1], dtype=seen.dtype, device=seen.device)
    fitted = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ said)
    model.visual_projection.weight.copy_(fitted[:-1].T)
    model.visual_projection.bias.copy_(fitted[-1])
