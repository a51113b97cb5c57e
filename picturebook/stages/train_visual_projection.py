"""The visual projection, trained so that the frozen language model reads visual tokens as words.

First they imitate an image in words, then they are trained by the captioning loss too. By the captioning loss alone
their norm grows to thirty times that of word embeddings: captions are good then, but the layers cannot treat such
tokens as words, and a story that continues after an image is lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modeling_gill import GillForConditionalGeneration, GillProcessor
from training_gill.caches import ImageFeatureCache

from ..models.language_model import parse_full_caption
from ..world.caption_grammar import describe, shuffled
from ..world.documents import image_in_words
from ..world.partial_scene import fully_known
from ..world.phrases import STOP
from ..world.splits import TRAIN, stream
from .training_loop import LossOfStep, Part, Schedule, run_parts


@dataclass(frozen=True)
class ImagesInWords:
    """Images with what they are in words.

    Attributes:
        features (`torch.FloatTensor` of shape `(num_images, vision_dim)`): Of the image encoder.
        words (`torch.LongTensor` of shape `(num_images, num_visual_tokens)`): Ids of the images in words.
        captions (`torch.LongTensor` of shape `(num_images, length)`): Full captions in the plain form with a full stop,
            objects in random order; padded on the right.
    """

    features: torch.Tensor
    words: torch.Tensor
    captions: torch.Tensor


def read_images_in_words(
    data: Iterable[Mapping[str, Any]], cache: Path, processor: GillProcessor, seed: int
) -> ImagesInWords:
    """Read the pairs whose caption is complete, with the features that `precompute` wrote to `cache`."""
    features, scenes, stored = [], [], ImageFeatureCache(cache)
    for example in data:
        scene = parse_full_caption(example["caption"])
        if scene is not None:
            features.append(stored[example["key"]])
            scenes.append(scene)
    generator, tokenizer = stream(seed, TRAIN, "captions to write"), processor.tokenizer
    captions = [f"{describe(shuffled(fully_known(scene), generator))} {STOP}" for scene in scenes]
    return ImagesInWords(
        torch.stack(features),
        tokenizer([image_in_words(scene) for scene in scenes], return_tensors="pt").input_ids,
        tokenizer(captions, padding=True, padding_side="right", return_tensors="pt").input_ids,
    )


def train_visual_projection(
    model: GillForConditionalGeneration,
    processor: GillProcessor,
    shown: ImagesInWords,
    schedules: tuple[Schedule, Schedule],
    folder: Path,
    seed: int,
) -> None:
    """Train `model.visual_projection` in place; a training that was stopped resumes from `folder`.

    Args:
        model ([`GillForConditionalGeneration`]): With its language model, in float32; it takes as many visual tokens an
            image as stand for one in the language model's text.
        schedules: Of imitating the images in words alone, and of both losses.
    """
    losses = VisualTokenLosses(model, shown, processor.tokenizer.pad_token_id)

    def drawn(schedule: Schedule, generator: torch.Generator) -> torch.Tensor:
        return torch.randint(len(shown.features), (schedule.batch_size,), generator=generator)

    def imitate(step: int, generator: torch.Generator) -> torch.Tensor:
        return losses.imitation(drawn(schedules[0], generator))

    def imitate_and_caption(step: int, generator: torch.Generator) -> torch.Tensor:
        images = drawn(schedules[1], generator)
        return losses.captioning(images) + losses.imitation(images)

    parts: list[LossOfStep] = [imitate, imitate_and_caption]
    both = [Part(schedule, loss) for schedule, loss in zip(schedules, parts, strict=True)]
    run_parts("visual projection", losses, both, folder, seed)


class VisualTokenLosses(nn.Module):
    """The visual projection with its losses. The rest of the model is no submodule, so it stays frozen."""

    def __init__(self, model: GillForConditionalGeneration, shown: ImagesInWords, padding: int) -> None:
        super().__init__()
        self.visual_projection = model.visual_projection
        self._parts, self._shown, self._padding = (model,), shown, padding
        # Of all words: the error is a share of it.
        self._variance = float(model.language_model.get_input_embeddings().weight.detach().var(0).sum())

    def imitation(self, images: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of visual tokens to the embeddings of images in words, as a share of the variance of
        all words.

        Args:
            images (`torch.LongTensor` of shape `(num_images,)`): Numbers of images.
        """
        model = self._on_device()
        distances = self._visual_tokens(images) - model.embed_tokens(self._shown.words[images].to(model.device))
        return distances.pow(2).sum(-1).mean() / self._variance

    def captioning(self, images: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of the full captions behind the visual tokens; `images` as for [`imitation`]."""
        model = self._on_device()
        captions, visual = self._shown.captions[images].to(model.device), self._visual_tokens(images)
        # Padding on the right is never looked at from the left: no mask is needed.
        embeds = torch.cat([visual, model.embed_tokens(captions[:, :-1])], dim=1)
        states = model.run_language_model(embeds, use_cache=False).last_hidden_state[:, visual.shape[1] - 1 :]
        logits = model.compute_logits(states).transpose(1, 2)
        return functional.cross_entropy(logits.float(), captions, ignore_index=self._padding)

    def _visual_tokens(self, images: torch.Tensor) -> torch.Tensor:
        (model,) = self._parts
        return model.embed_images(self._shown.features[images].to(model.device))

    def _on_device(self) -> GillForConditionalGeneration:
        (model,) = self._parts
        return model.to(next(self.visual_projection.parameters()).device)
