"""The prompts of a call of `generate`: checked, and where their columns lie among all tokens."""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from .outputs_gill import CACHE_NAME


class OptionLookup:
    """An option of generation, from where transformers takes it: the call, its configuration, the model's."""

    def __init__(self, kwargs: dict[str, Any], *configs: GenerationConfig | None) -> None:
        self.sources = [kwargs, *(vars(config) for config in configs if config is not None)]

    def __call__(self, name: str) -> Any:
        return next((source[name] for source in self.sources if source.get(name) is not None), None)


class GenerationPrompt:
    """The prompts of a call of `generate`, checked, and where their columns lie among all tokens.

    Attributes:
        input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`): Empty for prompts of embeddings alone.
        attention_mask (`torch.LongTensor` of shape `(batch_size, offset + prompt_length)`).
        offset (`int`): Number of tokens before the first column of `input_ids`: tokens of the cache that are not
            repeated, or embeddings without ids.
        num_cached_tokens (`int`): Number of tokens in `past_key_values`.
        image_kwargs (`dict`): Images for `prepare_inputs_for_generation`, where the new part of a prompt has any.
    """

    def __init__(
        self,
        model: Any,
        input_ids: torch.Tensor | None,
        kwargs: dict[str, Any],
        pixel_values: torch.Tensor | None,
        image_features: torch.Tensor | None,
        image_inputs: dict[str, Any],
        option: OptionLookup,
    ) -> None:
        self.model = model
        self.image_inputs = image_inputs
        self.inputs_embeds = kwargs.get("inputs_embeds")
        cache = kwargs.get(CACHE_NAME)
        if cache is not None and not hasattr(cache, "get_seq_length"):
            raise ValueError(f"`past_key_values` is of type {type(cache).__name__}; expected a `Cache`.")
        _check_tensor("input_ids", input_ids, 2)
        _check_tensor("inputs_embeds", self.inputs_embeds, 3)
        _check_tensor("attention_mask", kwargs.get("attention_mask"), 2)
        if input_ids is not None and input_ids.is_floating_point():
            raise ValueError(f"`input_ids` are {input_ids.dtype}; expected integers.")
        if pixel_values is not None and image_features is not None:
            raise ValueError("Give either `pixel_values` or `image_features`, not both.")
        if self.inputs_embeds is not None and (pixel_values is not None or image_features is not None):
            raise ValueError("`inputs_embeds` hold the images of a prompt already; leave the images out, or give ids.")
        self.num_cached_tokens = 0 if cache is None else int(cache.get_seq_length())
        if input_ids is None and self.inputs_embeds is None:
            bos_token_id = option("bos_token_id")
            if bos_token_id is None:
                raise ValueError("`generate` needs `input_ids` or `inputs_embeds`, or a `bos_token_id` to start from.")
            input_ids = torch.full((1, 1), bos_token_id, device=model.img_embeddings.weight.device)
        if input_ids is None:
            assert self.inputs_embeds is not None
            input_ids = self.inputs_embeds.new_zeros(self.inputs_embeds.shape[0], 0, dtype=torch.long)
        self.input_ids = input_ids
        batch_size = len(input_ids if self.inputs_embeds is None else self.inputs_embeds)
        if not batch_size or not (input_ids.shape[1] or self.inputs_embeds is not None):
            raise ValueError(f"`input_ids` are of shape {tuple(input_ids.shape)}; expected at least one token.")
        self.attention_mask = kwargs.pop("attention_mask", None)
        if self.attention_mask is None:
            self.attention_mask = self._mask_of_padding(option)
        if len(self.attention_mask) != batch_size or self.attention_mask.shape[1] < input_ids.shape[1]:
            raise ValueError(
                f"`attention_mask` is of shape {tuple(self.attention_mask.shape)} for `input_ids` of shape "
                f"{tuple(input_ids.shape)}; expected one row for each prompt and a column for each of its tokens."
            )
        self.offset = self.attention_mask.shape[1] - input_ids.shape[1]
        if self.num_cached_tokens and self.attention_mask.shape[1] <= self.num_cached_tokens:
            raise ValueError(
                f"The prompt has {self.attention_mask.shape[1]} tokens, but `past_key_values` holds "
                f"{self.num_cached_tokens}; expected the ids of the whole conversation, or its new ids with an "
                "`attention_mask` over the whole."
            )
        self.images: tuple[torch.Tensor | None, torch.Tensor | None] = (pixel_values, image_features)
        self.image_token_mask: torch.Tensor | None = None
        self.image_kwargs: dict[str, torch.Tensor] = {}
        if self.inputs_embeds is None:
            model.check_input_ids(input_ids)
            self.image_token_mask = self._find_placeholders()
            if self.image_token_mask[:, self.num_cached_tokens :].any():
                self.read_images()

    def _mask_of_padding(self, option: OptionLookup) -> torch.Tensor:
        if not self.input_ids.shape[1]:
            assert self.inputs_embeds is not None
            return self.inputs_embeds.new_ones(self.inputs_embeds.shape[:2], dtype=torch.long)
        pad_token_id = option("pad_token_id")
        # Where padding looks like another token, it cannot be told from it.
        if pad_token_id is None or pad_token_id in (option("bos_token_id"), option("eos_token_id")):
            return torch.ones_like(self.input_ids)
        return ((self.input_ids != pad_token_id).cumsum(1) > 0).long()

    def _find_placeholders(self) -> torch.Tensor:
        config = self.model.config
        placeholders = nn.functional.pad(self.input_ids == config.image_token_id, (self.offset, 0))
        is_new = torch.arange(placeholders.shape[1], device=placeholders.device) >= self.num_cached_tokens
        num_images = next((images.shape[0] for images in self.images if images is not None), 0)
        # The images of the whole conversation, or those of its new part.
        is_whole = num_images * config.num_visual_tokens == int(placeholders.sum())
        mask = placeholders if is_whole else placeholders & is_new
        self.model.check_number_of_images(int(mask.sum()), num_images)
        return mask

    def read_images(self) -> None:
        """Encode the images of the prompts, unless that is done or there are none."""
        if self.image_kwargs or self.image_token_mask is None or not self.image_token_mask.any():
            return
        pixel_values, image_features = self.images
        if image_features is None:
            image_features = self.model.get_image_features(pixel_values, **self.image_inputs).pooler_output
        assert image_features is not None
        counts = (self.image_token_mask.sum(1) // self.model.config.num_visual_tokens).tolist()
        padded = nn.utils.rnn.pad_sequence(list(image_features.split(counts)), batch_first=True)
        self.image_kwargs = {"image_features": padded, "image_token_mask": self.image_token_mask}

    def check_readable(self, begin: int) -> None:
        """Refuse to read the tokens from `begin` on where their ids or images were not given.

        Raises:
            ValueError: with what to give.
        """
        config = self.model.config
        is_placeholder = nn.functional.pad(self.input_ids == config.image_token_id, (self.offset, 0))
        is_missing = is_placeholder if self.image_token_mask is None else is_placeholder & ~self.image_token_mask
        if begin < self.offset or is_missing[:, begin:].any():
            raise ValueError(
                "The hidden states of the images written cannot be computed: this way of generating keeps no cache "
                "of the tokens before them, and the prompt lacks the part that `past_key_values` or `inputs_embeds` "
                "holds. Give the whole conversation as ids with all of its images, or generate without beams and with "
                "a `DynamicCache`."
            )

    def read(
        self, sequences: torch.Tensor, rows: torch.Tensor, begin: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the tokens from `begin` to `end` of some rows of the answers, and the mask up to `end`."""
        model = self.model
        prompts = rows // (sequences.shape[0] // self.attention_mask.shape[0])
        prompt_mask = self.attention_mask[prompts.to(self.attention_mask.device)]
        mask = nn.functional.pad(prompt_mask, (0, max(0, end - prompt_mask.shape[1])), value=1)[:, :end]
        if self.inputs_embeds is not None:
            begin_of_ids = max(begin, self.inputs_embeds.shape[1])
            written = model.embed_tokens(sequences[rows, begin_of_ids - self.offset : end - self.offset])
            given = self.inputs_embeds[prompts.to(self.inputs_embeds.device), begin:end].to(written)
            return torch.cat([given, written], dim=1), mask
        self.check_readable(begin)
        if self.image_token_mask is not None and self.image_token_mask[:, begin:].any():
            self.read_images()
        ids = sequences[rows, begin - self.offset : end - self.offset]
        images = {name: value[prompts.to(value.device)] for name, value in self.image_kwargs.items()}
        return model.embed_with_images(ids, begin, images.get("image_features"), images.get("image_token_mask")), mask


def _check_tensor(name: str, value: Any, num_dimensions: int) -> None:
    """Raise a ValueError unless `value` is None or a tensor of so many dimensions."""
    if value is None or (isinstance(value, torch.Tensor) and value.ndim == num_dimensions):
        return
    got = f"one of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    raise ValueError(f"`{name}` must be a tensor of {num_dimensions} dimensions, got {got}.")


def first_id(*candidates: int | list[int] | torch.Tensor | None) -> int:
    """The first id of the first candidate that has one."""
    for candidate in candidates:
        if candidate is not None:
            ids = torch.as_tensor(candidate).flatten()
            return int(ids[0])
    raise ValueError("No token id was given.")


__all__ = ["GenerationPrompt", "OptionLookup", "first_id"]
