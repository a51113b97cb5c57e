"""GILL's mapper and retrieval head over what fixed linear maps read of a language model's states.

All that is read is linear in the states, so it is folded into the adapters' first layers when training ends.
"""

import math
from typing import Any

import torch
from torch import nn

from modeling_gill import GillForConditionalGeneration
from modeling_gill.mapper_gill import MapperOutput

from .question_features import NUM_ANSWERS, READINGS, WORDS, QuestionFeatures


class QuestionAdapters(nn.Module):
    """GILL's mapper and retrieval head over features of the states, trained with their losses.

    Args:
        model ([`GillForConditionalGeneration`]): With `distinct_image_states`. Its mapper is trained, but for the first
            layer, which is made of this one's by [`~QuestionAdapters.fold`].
        features ([`QuestionFeatures`]): What the adapters read.
    """

    # Answers to untrained words are weaker than those to trained ones, which stand in the prompt, and less sure: their
    # share in a mixture, how much tokens differ in it, and noise in standard deviations of answers to untrained words.
    _WEAKEST, _STRONGEST, _NOISE = 0.1, 1.1, 0.4
    _LEAST_SHARE, _SHARE_STD = 0.5, 0.2
    _READING_NOISE, _HIDDEN = 0.05, 0.9
    # Untrained phrases may read a little like a second object.
    _SEEMS_SECOND = 0.6

    def __init__(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        super().__init__()
        mapper: Any = model.mapper
        self.transformer: Any = mapper.transformer
        self.output_projection: Any = mapper.output_projection
        self.queries = mapper.queries
        self.trusts_answers = features.trusted
        num_tokens, num_features, _ = features.weight.shape
        width, retrieval_dim = model.config.mapper_hidden_size, model.config.retrieval_dim
        # A feature means the same at every token, where training begins.
        weight = torch.randn(1, num_features, width) * (2.0 / num_features) ** 0.5
        self.input_weight = nn.Parameter(weight.repeat(num_tokens, 1, 1))
        self.input_bias = nn.Parameter(torch.randn(num_tokens, width) * 0.5)
        self.retrieval_weight = nn.Parameter(torch.zeros(num_features, retrieval_dim))
        self.retrieval_bias = nn.Parameter(torch.zeros(retrieval_dim))
        nn.init.normal_(self.retrieval_weight, std=num_features**-0.5)
        self.groups: torch.Tensor
        self.reading_groups: torch.Tensor
        self.spread: torch.Tensor
        for name, attributes in (("groups", WORDS), ("reading_groups", READINGS)):
            numbers = [torch.full((len(words),), number) for number, words in enumerate(attributes)]
            self.register_buffer(name, torch.cat(numbers), persistent=False)
        self.register_buffer("spread", features.spread, persistent=False)

    def augment(self, features: torch.Tensor, one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """
        Make answers as unsure as those to words that are not trained on, and hide readings that answers replace.

        Each attribute's answers become weaker, noisy, and a mixture with those to another prompt. So what they say may
        have changed, see [`~QuestionAdapters.likeliest`]. Where there is one object, most readings are those of another
        prompt. Where answers are not trusted, only a little noise is added to the readings.

        Args:
            features: `(batch_size, num_tokens, num_features)`.
            one: bool `(batch_size,)`, whether there is one object.
        """
        size, num_tokens, _ = features.shape
        answers, readings = features[..., :NUM_ANSWERS], features[..., NUM_ANSWERS:]

        def uniform(low: float, high: float, number: int) -> torch.Tensor:
            return low + (high - low) * torch.rand(size, 1, number, generator=generator)

        # Features that are not read at a token stay zero.
        noise = torch.randn(readings.shape, generator=generator) * (readings != 0)
        readings = readings + self._READING_NOISE * noise
        if not self.trusts_answers:
            return torch.cat([answers, readings], dim=-1)
        share = uniform(self._LEAST_SHARE, 1, len(WORDS))
        share = share + self._SHARE_STD * torch.randn(size, num_tokens, len(WORDS), generator=generator)
        share = share.clamp(0, 1)[..., self.groups]
        others = torch.cat(
            [answers[_among(one, generator)][..., self.groups == number] for number in range(len(WORDS))], dim=-1
        )
        strength = torch.exp(uniform(math.log(self._WEAKEST), math.log(self._STRONGEST), len(WORDS)))
        answers = (share * answers + (1 - share) * others) * strength[..., self.groups]
        answers = answers + self._NOISE * self.spread * torch.randn(answers.shape, generator=generator)
        hidden = uniform(0, 1, len(READINGS)) < self._HIDDEN
        # The last reading, of a second object, is never hidden.
        hidden[..., -1] = False
        hidden = one[:, None, None] & hidden[..., self.reading_groups]
        readings = torch.where(hidden, readings[_among(one, generator)], readings)
        seems = uniform(0, self._SEEMS_SECOND, 1) * one[:, None, None] * (readings[..., -1:] != 0)
        readings = torch.cat([readings[..., :-1], readings[..., -1:] + seems], dim=-1)
        return torch.cat([answers, readings], dim=-1)

    def likeliest(self, features: torch.Tensor) -> torch.Tensor:
        """For each of `WORDS` the number of the word that most votes are for, `(batch_size, 4)`."""
        votes = features[..., :NUM_ANSWERS].sum(1)
        return torch.stack([votes[:, self.groups == number].argmax(1) for number in range(len(WORDS))], dim=1)

    def map(self, features: torch.Tensor) -> MapperOutput:
        """The mapper's output for features."""
        inputs = torch.einsum("nrf,rfw->nrw", features, self.input_weight) + self.input_bias
        states = self.transformer(inputs, self.queries.expand(len(inputs), -1, -1))
        return MapperOutput({"prompt_embeds": self.output_projection(states)})

    def retrieval_embeds(self, features: torch.Tensor) -> torch.Tensor:
        """The retrieval head's output for features; an answer is read where it is asked for."""
        return features.sum(1) @ self.retrieval_weight + self.retrieval_bias

    @torch.no_grad()
    def fold(self, model: GillForConditionalGeneration, features: QuestionFeatures) -> None:
        """Write the first layers of the mapper and of the retrieval head, which read states, into the model."""
        mapper: Any = model.mapper
        head: Any = model.text_retrieval_head
        weight = torch.einsum("rfd,rfw->rwd", features.weight, self.input_weight)
        bias = self.input_bias + torch.einsum("rf,rfw->rw", features.bias, self.input_weight)
        # The mapper reads the sum of a state and of its row.
        mapper.input_projection.weight.copy_(weight)
        mapper.input_projection.bias.copy_(bias - torch.einsum("rwd,rd->rw", weight, model.img_embeddings.weight))
        head.weight.copy_(torch.einsum("rfd,fp->prd", features.weight, self.retrieval_weight).flatten(1))
        head.bias.copy_(self.retrieval_bias + features.bias.sum(0) @ self.retrieval_weight)


def _among(one: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """For each prompt of a batch, the number of a random one with as many objects."""
    others = torch.arange(len(one))
    for numbers in (one.nonzero()[:, 0], (~one).nonzero()[:, 0]):
        others[numbers] = numbers[torch.randperm(len(numbers), generator=generator)]
    return others
