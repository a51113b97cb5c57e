"""What `generate` of GILL adds to transformers' own: images in the prompt, the rules of the `[IMG]` tokens, and the
outputs of the heads at the images that were written."""

from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

from .outputs_gill import CACHE_NAME, GillGenerateOutput


class ImgTokenLogitsProcessor(LogitsProcessor):
    r"""Keeps images whole (paper, section 3.3): works row by row, on logits and on log-probabilities alike.

    `[IMG1]`.. come only right after their predecessor, and then for certain. `[IMG0]` is forbidden before
    `min_text_tokens` tokens are written, and wherever another processor forbids one of the `[IMG]` tokens.
    The factor on the logit of `[IMG0]` is applied by the model, see `image_token_scale` in
    [`GillForConditionalGeneration.forward`], since it is defined for logits only.

    Args:
        image_output_token_ids (`list[int]`): Ids of `[IMG0]`..`[IMG r-1]`.
        prompt_length (`int`): Number of columns of `input_ids` that are prompt.
        min_text_tokens (`int`, defaults to 0): Number of tokens to write before the first image.
    """

    def __init__(self, image_output_token_ids: list[int], prompt_length: int, min_text_tokens: int = 0) -> None:
        self.image_output_token_ids = image_output_token_ids
        self.prompt_length = prompt_length
        self.min_text_tokens = min_text_tokens
        # Made once, as every copy of ids to an accelerator waits for it.
        self.ids = torch.tensor(image_output_token_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`).
            scores (`torch.FloatTensor` of shape `(batch_size, vocab_size)`).

        Returns:
            `torch.FloatTensor` of shape `(batch_size, vocab_size)`.
        """
        if max(self.image_output_token_ids) >= scores.shape[-1]:
            return scores  # an assistant model that has no `[IMG]` tokens
        if self.ids.device != scores.device:
            self.ids = self.ids.to(scores.device)
        first, later = self.ids[:1], self.ids[1:]
        is_forbidden = input_ids.new_zeros(len(scores), 1, dtype=torch.bool)
        if input_ids.shape[1] - self.prompt_length < self.min_text_tokens:
            is_forbidden.fill_(True)
        elif len(later):
            is_forbidden = (scores[:, later] == -torch.inf).any(1, keepdim=True)
        # The first one's score, and where an image is begun, 0 for the next one alone.
        first_scores = scores[:, first].masked_fill(is_forbidden, -torch.inf)
        scores = scores.index_fill(1, self.ids, -torch.inf)
        if not len(later) or input_ids.shape[1] == 0:
            return scores.index_copy_(1, first, first_scores)
        is_next = input_ids[:, -1:] == self.ids[:-1]
        is_begun = is_next.any(1, keepdim=True)
        scores.masked_fill_(is_begun, -torch.inf)
        next_scores = torch.zeros_like(scores[:, later]).masked_fill_(~is_next, -torch.inf)
        first_scores = first_scores.masked_fill(is_begun, -torch.inf)
        return scores.index_copy_(1, self.ids, torch.cat([first_scores, next_scores], dim=1))


class GillGenerationMixin(GenerationMixin):
    """transformers' `generate` for [`GillForConditionalGeneration`]."""

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self: Any,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        image_token_scale: float = 1.0,
        min_text_tokens: int = 0,
        pixel_values: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> GillGenerateOutput | torch.Tensor:
        r"""
        transformers' own `generate`, with images in the prompt and the rules of the `[IMG]` tokens.

        Args:
            inputs (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Left-padded prompts; may also be given as `input_ids`. By default one prompt that is the BOS token.
            generation_config, logits_processor (*optional*): As in transformers.
            image_token_scale (`float`, defaults to 1.0): Factor on the logit of `[IMG0]`, see [`GillConfig`].
            min_text_tokens (`int`, defaults to 0): Number of tokens to write before the first image.
            pixel_values, image_features (*optional*):
                The images of the prompts, as in [`~GillForConditionalGeneration.forward`], with the other outputs of
                the image processor. With `past_key_values` either the images of the whole conversation or those of
                its new part.
            kwargs: Everything else that `GenerationMixin.generate` takes.

        Returns:
            [`GillGenerateOutput`] if `return_dict_in_generate=True`, otherwise its `sequences`. An image that
            `max_new_tokens` would cut is completed, as in the authors' code, which makes the answer up to
            `num_image_output_tokens - 1` tokens longer. Images that lie wholly in the tokens of `past_key_values`
            are not reported again.

        Raises:
            ValueError: ids, lengths or images that do not fit, with both numbers.

        Example:

        ```python
        >>> batch = processor([[image, "a photo of a cat in the snow"]])
        >>> output = model.generate(**batch, max_new_tokens=24, return_dict_in_generate=True)
        >>> text = processor.batch_decode(output.sequences)
        >>> prompt_embeds = output.conditioning["prompt_embeds"]  # of the images in the answer, for the image generator
        ```
        """
        if image_token_scale != 1.0:
            kwargs["image_token_scale"] = image_token_scale
        if getattr(generation_config, "is_assistant", False):
            # Another model asks for candidates. It passes on the images of its own prompt, as this method made them.
            if image_features is not None and image_features.shape[-1] == self.config.vision_dim:
                kwargs["image_features"] = image_features
            return super().generate(inputs, generation_config, logits_processor, **kwargs)

        for name in ("past_key_values", "cache"):
            if kwargs.get(name) is not None:
                kwargs[CACHE_NAME] = kwargs.pop(name)
        image_inputs = self.take_image_inputs(kwargs)
        if not self.language_model_traits.decoder.continues:
            kwargs["use_cache"] = False
        option = _OptionLookup(kwargs, generation_config, self.generation_config)
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        prompt = _Prompt(self, input_ids, kwargs, pixel_values, image_features, image_inputs, option)
        self._check_length(prompt.offset + prompt.input_ids.shape[1] + (option("max_new_tokens") or 0))
        rules = ImgTokenLogitsProcessor(self.config.image_output_token_ids, prompt.input_ids.shape[1], min_text_tokens)
        generated = super().generate(
            prompt.input_ids if prompt.input_ids.shape[1] else None,
            generation_config,
            LogitsProcessorList([*(logits_processor or []), rules]),
            attention_mask=prompt.attention_mask,
            **prompt.image_kwargs,
            **kwargs,
        )
        sequences = generated if isinstance(generated, torch.Tensor) else generated.sequences
        # transformers fills unfinished columns of beams with -1 where the pad token's id is 0 or missing.
        pad_token_id = _first_id(option("pad_token_id"), option("eos_token_id"), 0)
        sequences = sequences.masked_fill(sequences < 0, pad_token_id)
        completed = complete_images(sequences, self.config.image_output_token_ids, pad_token_id)
        longest = self.config.max_position_embeddings
        if longest is None or prompt.offset + completed.shape[1] <= longest:
            sequences = completed
        if isinstance(generated, torch.Tensor):
            return sequences
        images = self._image_outputs_of_sequences(sequences, prompt, generated)
        fields = {name: value for name, value in generated.items() if name in GillGenerateOutput.__dataclass_fields__}
        return GillGenerateOutput(**{**fields, "sequences": sequences, **images})

    def prepare_inputs_for_generation(  # type: ignore[override]
        self: Any,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_token_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. The prompt is embedded here, where it is known which placeholders are images.

        Args:
            image_features (`torch.FloatTensor` of shape `(batch_size, max_images, *image_feature_shape)`, *optional*):
                The images of each prompt, padded, so that transformers can repeat them with their prompt.
            image_token_mask (`torch.BoolTensor` of shape `(batch_size, prompt_length)`, *optional*):
                Where the embeddings of images stand. A placeholder that the model writes is a token like any other.
        """
        model_inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        model_inputs["output_images"] = False
        new_ids, cache = model_inputs["input_ids"], kwargs.get(CACHE_NAME)
        is_decoding = cache is not None and not kwargs.get("is_first_iteration") and new_ids.shape[1] == 1
        if model_inputs.get("inputs_embeds") is None and not is_decoding:
            start = 0 if cache is None else int(cache.get_seq_length())
            model_inputs["inputs_embeds"] = self.embed_with_images(new_ids, start, image_features, image_token_mask)
        return model_inputs

    def embed_with_images(
        self: Any,
        input_ids: torch.Tensor,
        start: int,
        image_features: torch.Tensor | None,
        image_token_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Embed the columns of a prompt from `start` on; the arguments as in `prepare_inputs_for_generation`."""
        embeds = self.embed_tokens(input_ids)
        if image_features is None or image_token_mask is None:
            return embeds
        counts = image_token_mask.sum(1)
        is_there = torch.arange(image_features.shape[1], device=counts.device) * self.config.num_visual_tokens
        visual = self.embed_images(image_features[(is_there < counts[:, None]).to(image_features.device)])
        # Which embedding of an image stands at each column.
        ranks = image_token_mask.flatten().cumsum(0).view_as(image_token_mask) - 1
        columns = slice(start, start + input_ids.shape[1])
        mask = image_token_mask[:, columns]
        visual = visual.flatten(0, 1)[ranks[:, columns][mask].to(visual.device)]
        mask = nn.functional.pad(mask, (0, input_ids.shape[1] - mask.shape[1])).to(embeds.device)
        return embeds.masked_scatter(mask[..., None], visual.to(embeds))

    def _image_outputs_of_sequences(
        self: Any, sequences: torch.Tensor, prompt: "_Prompt", generated: Any
    ) -> dict[str, Any]:
        """Outputs of the heads at the images in `sequences`.

        The state of the last token is never computed while generating. So the columns from the first image on are
        read once more over the cache of what precedes them. Where there is no such cache (beams, `use_cache=False`,
        sliding windows), the rows that hold an image are read again as a whole.
        """
        rows, starts = find_images(sequences, self.config.image_output_token_ids)
        is_new = starts + prompt.offset >= prompt.num_cached_tokens
        rows, starts = rows[is_new], starts[is_new]
        if not len(rows):
            nothing = self.img_embeddings.weight.new_zeros(
                0, self.config.num_image_output_tokens, self.config.embedding_dim
            )
            return {"img_batch_indices": rows, "img_start_positions": starts, **self.image_outputs(nothing)}
        kept, index = rows.unique(return_inverse=True)
        cache = None
        if getattr(generated, "beam_indices", None) is None:
            cache = _first_tokens_of_cache(generated.get(CACHE_NAME), kept, prompt.offset + int(starts.min()))
        begin = 0 if cache is None else cache.get_seq_length()
        end = prompt.offset + int(starts.max()) + self.config.num_image_output_tokens
        embeds, mask = prompt.read(sequences, kept, begin, end)
        states = self.run_language_model(
            embeds, mask, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        images = self._images_at(states, index, starts + prompt.offset - begin)
        return {**images, "img_batch_indices": rows, "img_start_positions": starts}


class _OptionLookup:
    """An option of generation, from where transformers takes it: the call, its configuration, the model's."""

    def __init__(self, kwargs: dict[str, Any], *configs: GenerationConfig | None) -> None:
        self.sources = [kwargs, *(vars(config) for config in configs if config is not None)]

    def __call__(self, name: str) -> Any:
        return next((source[name] for source in self.sources if source.get(name) is not None), None)


class _Prompt:
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
        option: _OptionLookup,
    ) -> None:
        self.model = model
        self.image_inputs = image_inputs
        self.inputs_embeds = kwargs.get("inputs_embeds")
        cache = kwargs.get(CACHE_NAME)
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
        self.attention_mask = kwargs.pop("attention_mask", None)
        if self.attention_mask is None:
            self.attention_mask = self._mask_of_padding(option)
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
                self._read_images()

    def _mask_of_padding(self, option: _OptionLookup) -> torch.Tensor:
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

    def _read_images(self) -> None:
        pixel_values, image_features = self.images
        if image_features is None:
            image_features = self.model.get_image_features(pixel_values, **self.image_inputs).pooler_output
        assert image_features is not None and self.image_token_mask is not None
        counts = (self.image_token_mask.sum(1) // self.model.config.num_visual_tokens).tolist()
        padded = nn.utils.rnn.pad_sequence(list(image_features.split(counts)), batch_first=True)
        self.image_kwargs = {"image_features": padded, "image_token_mask": self.image_token_mask}

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
        assert self.image_token_mask is not None
        is_placeholder = nn.functional.pad(self.input_ids == model.config.image_token_id, (self.offset, 0))
        if begin < self.offset or (is_placeholder & ~self.image_token_mask)[:, begin:].any():
            raise ValueError(
                "The hidden states of the images written cannot be computed: this way of generating keeps no cache "
                "of the tokens before them, and the prompt lacks the part that `past_key_values` holds. Give the whole "
                "conversation with all of its images, or generate without beams and with a `DynamicCache`."
            )
        if self.image_token_mask[:, begin:].any() and not self.image_kwargs:
            self._read_images()
        ids = sequences[rows, begin - self.offset : end - self.offset]
        images = {name: value[prompts.to(value.device)] for name, value in self.image_kwargs.items()}
        return model.embed_with_images(ids, begin, images.get("image_features"), images.get("image_token_mask")), mask


def _first_tokens_of_cache(cache: Cache | None, rows: torch.Tensor, length: int) -> DynamicCache | None:
    """The first `length` tokens of some rows of a cache, or `None` where a layer does not keep all tokens."""
    layers = getattr(cache, "layers", None)
    if cache is None or not layers or int(cache.get_seq_length()) < length or length == 0:
        return None
    first = DynamicCache()
    for number, layer in enumerate(layers):
        if type(layer) not in (DynamicLayer, StaticLayer):
            return None
        keys, values = (states[rows.to(states.device), :, :length] for states in (layer.keys, layer.values))
        first.update(keys, values, number)
    return first


def _first_id(*candidates: int | list[int] | torch.Tensor | None) -> int:
    for candidate in candidates:
        if candidate is not None:
            ids = torch.as_tensor(candidate).flatten()
            return int(ids[0])
    raise ValueError("No token id was given.")


def find_images(input_ids: torch.Tensor, image_output_token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the complete runs `[IMG0]`..`[IMG r-1]` in `input_ids` of shape `(batch_size, sequence_length)`.

    Returns:
        Two `torch.LongTensor` of shape `(num_images,)`: row and first column of each, in reading order.
    """
    if input_ids.shape[1] < len(image_output_token_ids):
        nothing = input_ids.new_zeros(0, dtype=torch.long)
        return nothing, nothing
    windows = input_ids.unfold(1, len(image_output_token_ids), 1)
    rows, starts = (windows == windows.new_tensor(image_output_token_ids)).all(-1).nonzero(as_tuple=True)
    return rows, starts


def complete_images(sequences: torch.Tensor, image_output_token_ids: list[int], pad_token_id: int) -> torch.Tensor:
    """Append the missing `[IMG]` tokens to rows that end in the middle of an image.

    The authors' code writes all `[IMG]` tokens of an image in one step, so an image begun is an image completed.
    """
    rows: list[list[int]] = []
    for row in sequences.tolist():
        begun = next(
            (n for n in range(len(image_output_token_ids) - 1, 0, -1) if row[-n:] == image_output_token_ids[:n]), None
        )
        rows.append(row + image_output_token_ids[begun:] if begun else row)
    longest = max(len(row) for row in rows)
    if longest == sequences.shape[1]:
        return sequences
    return sequences.new_tensor([row + [pad_token_id] * (longest - len(row)) for row in rows])


__all__ = ["GillGenerationMixin", "ImgTokenLogitsProcessor", "complete_images", "find_images"]
