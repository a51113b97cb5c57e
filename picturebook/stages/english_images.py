"""A visual projection by which a language model reads the picture book's images as words for them."""

import torch
from transformers import PreTrainedTokenizerBase

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline

from ..world.caption_grammar import layout
from ..world.drawing import to_images
from ..world.pairs import draw_all
from ..world.scene import Scene
from ..world.splits import TRAIN, scene_in, stream

_READ_RIDGE = 1e-3


@torch.no_grad()
def fit_visual_projection(
    base: GillPipeline,
    gill: GillForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    number: int,
    seed: int,
) -> None:
    """Fit the visual projection by least squares, so that visual tokens imitate the rows of words for an image.

    The words are the background and what is at each place, ` night left red house right nothing nothing ...`.
    """
    generator = stream(seed, TRAIN, "english pairs to read")
    scenes = [scene_in(TRAIN, generator, 0.2) for _ in range(number)]
    features, targets = [], []
    rows = gill.language_model.get_input_embeddings().weight
    images = draw_all(scenes, generator)
    for begin in range(0, number, 250):
        part = to_images(images[begin : begin + 250])
        values = base.processor.image_processor(images=part, return_tensors="pt")["pixel_values"]
        features.append(gill.get_image_features(values).pooler_output.double())
        words = [image_in_words(scene) for scene in scenes[begin : begin + 250]]
        ids = [[tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in one] for one in words]
        targets.append(rows[torch.tensor(ids)].flatten(1).double())
    inputs, outputs = torch.cat(features), torch.cat(targets)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    ridge = _READ_RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    fitted = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    gill.visual_projection.weight.copy_(fitted[:-1].T)
    gill.visual_projection.bias.copy_(fitted[-1])


def image_in_words(scene: Scene) -> list[str]:
    """The words that visual tokens imitate: the background, and for each place its name, a colour and a kind."""
    background, *words = layout(scene).split()
    named = []
    for number, place in enumerate(("left", "right", "top", "bottom")):
        named += [place, *words[2 * number : 2 * number + 2]]
    return [background, *named]
