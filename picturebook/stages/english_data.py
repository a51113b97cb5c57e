"""What adapters for English are trained on: requests, and the conditioning and images that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from modeling_gill import GillForConditionalGeneration
from pipeline_gill import GillPipeline
from training_gill.losses import conditioning_loss

from ..models import batches
from ..models.image_generator import plain_captions, plain_generator
from ..models.question_adapters import QuestionAdapters
from ..models.question_features import WORDS
from ..models.smollm2 import library_of
from ..world.caption_grammar import describe, shuffled
from ..world.drawing import to_images
from ..world.english import sentence_of
from ..world.pairs import draw_all
from ..world.partial_scene import fully_known
from ..world.scene import Scene, SceneObject
from ..world.splits import TRAIN, scene_in, stream

# How much the contrast counts beside the distance of the conditioning.
_CONTRAST = 0.3
# The share of a batch that has one object. Scenes of two are more, and learned later.
_ONE_SHARE = 0.3


@dataclass(frozen=True)
class Prompt:
    """A request in English, the scene that it asks for, and the world's plain caption of it, objects in its order."""

    text: str
    scene: Scene
    caption: str


def sample_english(number: int, single_share: float, seed: int) -> list[Prompt]:
    """Requests of the train split in sentence forms and words that are trained on."""
    generator = stream(seed if single_share else seed + 3, TRAIN, "english")
    prompts = []
    for _ in range(number):
        scene = scene_in(TRAIN, generator, single_share)
        known = shuffled(fully_known(scene), generator)
        prompts.append(Prompt(sentence_of(known, generator), scene, describe(known)))
    return prompts


@dataclass(frozen=True)
class EnglishData:
    """
    Attributes:
        features: `(num_prompts, num_tokens, num_features)`.
        targets: The text encoder's states for the captions, float16 `(num_prompts, length, dim)`.
        images: Unit retrieval embeddings of an image of each scene.
        library: Those of the retrieval set.
        in_library: For each prompt the number of its image there, or -1.
        one: Whether there is one object.
        number: The number of a scene of one object among all of these (see [`scenes_of_one`]), or -1.
        targets_of_one, images_of_one, in_library_of_one: As `targets`, `images` and `in_library`, of all these scenes.
    """

    features: torch.Tensor
    targets: torch.Tensor
    images: torch.Tensor
    library: torch.Tensor
    in_library: torch.Tensor
    one: torch.Tensor
    number: torch.Tensor
    targets_of_one: torch.Tensor
    images_of_one: torch.Tensor
    in_library_of_one: torch.Tensor


def scenes_of_one() -> list[Scene]:
    """All scenes of one object, by the numbers of kind, colour, place and background, the last one fastest."""
    return [Scene((SceneObject(*words),), background) for *words, background in product(*WORDS)]


def number_of_one(values: torch.Tensor) -> torch.Tensor:
    """The number in [`scenes_of_one`] of kinds, colours, places and backgrounds by number, `(num_scenes, 4)`."""
    number = torch.zeros(len(values), dtype=torch.long)
    for column, words in enumerate(WORDS):
        number = number * len(words) + values[:, column]
    return number


@torch.no_grad()
def build_data(base: GillPipeline, features: torch.Tensor, prompts: Sequence[Prompt]) -> EnglishData:
    generator: Any = plain_generator(base)
    singles = scenes_of_one()
    targets = []
    for captions in batches([prompt.caption for prompt in prompts] + plain_captions(singles), 256):
        tokens = generator.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        targets.append(generator.text_encoder(input_ids=tokens).last_hidden_state.half())
    library, in_library = library_of(base)
    numbers = {scene: number for number, scene in enumerate(in_library)}
    number_of = {scene: number for number, scene in enumerate(singles)}
    scenes = [prompt.scene for prompt in prompts] + singles
    parts = [len(prompts), len(singles)]
    images = functional.normalize(embed_images(base, draw_all(scenes, stream(0, TRAIN, "english images"))), dim=-1)
    target, target_of_one = torch.cat(targets).split(parts)
    image, image_of_one = images.split(parts)
    place, place_of_one = torch.tensor([numbers.get(scene, -1) for scene in scenes]).split(parts)
    return EnglishData(
        features,
        target,
        image,
        library,
        place,
        torch.tensor([len(prompt.scene.objects) == 1 for prompt in prompts]),
        torch.tensor([number_of.get(prompt.scene, -1) for prompt in prompts]),
        target_of_one,
        image_of_one,
        place_of_one,
    )


@torch.no_grad()
def embed_images(base: GillPipeline, images: np.ndarray) -> torch.Tensor:
    """Retrieval embeddings of uint8 images by the picture book's model, `(num_images, retrieval_dim)`."""
    found = []
    for batch in batches(to_images(images), 256):
        values = base.processor.image_processor(images=batch, return_tensors="pt")["pixel_values"]
        found.append(base.model.get_image_retrieval_embeddings(values))
    return torch.cat(found)


def loss_of_step(
    adapters: QuestionAdapters,
    gill: GillForConditionalGeneration,
    data: EnglishData,
    batch_size: int,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """GILL's losses of a step: L2 distance to the target captions' conditioning, and contrast with other images.

    The images to contrast with are those of the batch and the retrieval set.
    """
    one = round(_ONE_SHARE * batch_size)
    parts = [(data.one.nonzero()[:, 0], one), ((~data.one).nonzero()[:, 0], batch_size - one)]
    alone, both = (part[torch.randint(len(part), (size,), generator=generator)] for part, size in parts)
    chosen = torch.cat([alone, both])
    features = adapters.augment(data.features[chosen], data.one[chosen], generator)
    # What the answers say may have changed, and it is what is to be drawn.
    number = number_of_one(adapters.likeliest(features[:one])) if adapters.trusts_answers else data.number[alone]
    wanted = torch.cat([data.targets_of_one[number], data.targets[both]])
    target = {"prompt_embeds": wanted.float()}
    loss = conditioning_loss(adapters.map(features), target, gill.config.conditioning_tensors)
    texts = functional.normalize(adapters.retrieval_embeds(features), dim=-1)
    own, scale = torch.cat([data.images_of_one[number], data.images[both]]), gill.logit_scale.detach().exp()
    others = texts @ data.library.T
    numbers = torch.cat([data.in_library_of_one[number], data.in_library[both]])
    rows = (numbers >= 0).nonzero()[:, 0]
    others = others.index_put((rows, numbers[rows]), torch.tensor(-torch.inf, dtype=others.dtype))
    logits = scale * torch.cat([(texts * own).sum(-1, keepdim=True), others], dim=1)
    contrast = functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long))
    return loss + _CONTRAST * contrast
