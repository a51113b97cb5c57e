"""What `generate` of GILL adds to transformers' own: images in the prompt, the rules of the `[IMG]` tokens, text and
images in turn, and the outputs of the heads at the images that were written."""

import math
from numbers import Real
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList

from .generation_cache_gill import copy_first_columns
from .generation_prompt_gill import GenerationPrompt, OptionLookup, first_id
from .outputs_gill import CACHE_NAME, GillGenerateOutput
from .turns_gill import ImageCallback, ImageTurns


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


class UndefinedScoresLogitsProcessor(LogitsProcessor):
    """Forbids tokens whose score is not a number: guidance subtracts scores, and of tokens that are never written both
    are `-inf`."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Args and return: as of [`ImgTokenLogitsProcessor`]."""
        return scores.masked_fill(scores.isnan(), -torch.inf)


class OpeningTokenLogitsProcessor(LogitsProcessor):
    """
    The rules of images whose tokens are never predicted (DreamLLM): the token that opens one is forbidden before
    `min_text_tokens` tokens are written, and what stands in the image always is.

    Args:
        opening_token_id (`int`): Id of the token that opens an image.
        image_output_token_ids (`list[int]`): Ids of the tokens of an image.
        prompt_length, min_text_tokens (`int`): As of [`ImgTokenLogitsProcessor`].
    """

    def __init__(
        self, opening_token_id: int, image_output_token_ids: list[int], prompt_length: int, min_text_tokens: int = 0
    ) -> None:
        self.opening_token_id = opening_token_id
        self.prompt_length, self.min_text_tokens = prompt_length, min_text_tokens
        self.ids = torch.tensor(image_output_token_ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Args and return: as of [`ImgTokenLogitsProcessor`]."""
        if int(self.ids.max() if self.ids.device.type == "cpu" else 0) >= scores.shape[-1]:
            return scores  # an assistant model that has no such tokens
        if self.ids.device != scores.device:
            self.ids = self.ids.to(scores.device)
        scores = scores.index_fill(1, self.ids, -torch.inf)
        if input_ids.shape[1] - self.prompt_length < self.min_text_tokens:
            scores[:, self.opening_token_id] = -torch.inf
        return scores


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
        image_callback: ImageCallback | None = None,
        **kwargs: Any,
    ) -> GillGenerateOutput | torch.Tensor:
        r"""
        transformers' own `generate`, with images in the prompt, and text and images in turn.

        Text is written up to the token that opens an image. The other tokens of the image are then read in one pass
        over the cache, and the text goes on. In a batch, rows that have opened an image wait for the others, and each
        row is written as it would be alone.

        Args:
            inputs (`torch.LongTensor` of shape `(batch_size, sequence_length)`, *optional*):
                Left-padded prompts; may also be given as `input_ids`. By default one prompt that is the BOS token.
            generation_config, logits_processor (*optional*): As in transformers.
            image_token_scale (`float`, defaults to 1.0):
                Factor on the logit of the token that opens an image, see [`GillConfig`].
            min_text_tokens (`int`, defaults to 0): Number of tokens to write before the first image.
            pixel_values, image_features (*optional*):
                The images of the prompts, as in [`~GillForConditionalGeneration.forward`], with the other outputs of
                the image processor. With `past_key_values` either the images of the whole conversation or those of
                its new part.
            image_callback (`Callable`, *optional*):
                Called with the images that the rows of the batch have just written, one of each row that has: a
                [`GillOutput`] with the fields `img_batch_indices` to `decision_logits`. It returns the features of
                the images to read back, of shape `(num_images, *config.image_feature_shape)` or a list with `None`
                for images that are not read, or `None` for none at all. A row reads its image, between the tokens
                that stand around images, before its text goes on. A prompt that ends with an image of the answer
                counts as having written it.
            kwargs: Everything else that `GenerationMixin.generate` takes.

        Returns:
            [`GillGenerateOutput`] if `return_dict_in_generate=True`, otherwise its `sequences`. An image that is begun
            is completed, as in the authors' code. Its tokens count as new ones where they are predicted (GILL), so
            that an answer can be up to `num_image_output_tokens - 1` tokens longer than `max_new_tokens`. Tokens that
            are never predicted (DreamLLM), and those of images read back, count against the context alone, at whose
            end an answer ends. Images that lie wholly in the tokens of `past_key_values` are not reported again.
            After an image, `past_key_values` is that of a single row or `None`, and beams are searched anew: scores
            and indices of beams are `None`.

        Raises:
            ValueError: ids, lengths or images that do not fit, with both numbers; an option that does not go with
                images in turn.

        Example:

        ```python
        >>> batch = processor([[image, "a photo of a cat in the snow"]])
        >>> output = model.generate(**batch, max_new_tokens=24, return_dict_in_generate=True)
        >>> text = processor.batch_decode(output.sequences)
        >>> prompt_embeds = output.conditioning["prompt_embeds"]  # of the images in the answer, for the image generator
        ```
        """
        _check_options(image_token_scale, min_text_tokens, image_callback)
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
        option = OptionLookup(kwargs, generation_config, self.generation_config)
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        prompt = GenerationPrompt(self, input_ids, kwargs, pixel_values, image_features, image_inputs, option)
        self._check_length(prompt.offset + prompt.input_ids.shape[1] + (option("max_new_tokens") or 0))
        pad_token_id = first_id(option("pad_token_id"), option("eos_token_id"), 0)
        turns = ImageTurns(self, prompt, image_callback, pad_token_id)
        guided = [UndefinedScoresLogitsProcessor()] if option("guidance_scale") not in (None, 1) else []
        generated = super().generate(
            prompt.input_ids if prompt.input_ids.shape[1] else None,
            generation_config,
            LogitsProcessorList([*guided, *(logits_processor or []), self._image_rules(prompt, min_text_tokens)]),
            attention_mask=prompt.attention_mask,
            turns=turns,
            **prompt.image_kwargs,
            **kwargs,
        )
        if turns.are_required and not turns.rows:
            raise ValueError(
                "This way of generating does not write text and images in turn; expected greedy decoding, sampling, "
                "beams or assisted decoding."
            )
        sequences = generated if isinstance(generated, torch.Tensor) else generated.sequences
        # transformers fills unfinished columns of beams with -1 where the pad token's id is 0 or missing.
        sequences = sequences.masked_fill(sequences < 0, pad_token_id)
        if not turns.rows:
            completed = complete_images(sequences, self.config.image_output_token_ids, pad_token_id)
            longest = self.config.max_position_embeddings
            if longest is None or prompt.offset + completed.shape[1] <= longest:
                sequences = completed
        if isinstance(generated, torch.Tensor):
            return sequences
        images = self._image_outputs_of_sequences(sequences, prompt, generated, turns.states())
        fields = {name: value for name, value in generated.items() if name in GillGenerateOutput.__dataclass_fields__}
        mask = turns.forced_token_mask(sequences) if turns.rows else None
        return GillGenerateOutput(**{**fields, "sequences": sequences, "forced_token_mask": mask, **images})

    def _image_rules(self: Any, prompt: GenerationPrompt, min_text_tokens: int) -> LogitsProcessor:
        ids, prompt_length = self.config.image_output_token_ids, prompt.input_ids.shape[1]
        if self.config.predict_image_output_tokens and self.config.opening_token_id == ids[0]:
            return ImgTokenLogitsProcessor(ids, prompt_length, min_text_tokens)
        return OpeningTokenLogitsProcessor(self.config.opening_token_id, ids, prompt_length, min_text_tokens)

    # transformers' methods of decoding, once it has prepared their arguments. Models of its own override them too.

    def _sample(self: Any, input_ids: torch.Tensor, *, turns: ImageTurns | None = None, **kwargs: Any) -> Any:
        return _decode(super()._sample, input_ids, turns, kwargs, is_sampling=True)

    def _beam_search(self: Any, input_ids: torch.Tensor, *, turns: ImageTurns | None = None, **kwargs: Any) -> Any:
        return _decode(super()._beam_search, input_ids, turns, kwargs)

    def _assisted_decoding(
        self: Any, input_ids: torch.Tensor, *, turns: ImageTurns | None = None, **kwargs: Any
    ) -> Any:
        return _decode(super()._assisted_decoding, input_ids, turns, kwargs)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self: Any,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        image_token_mask: torch.Tensor | None = None,
        turns: ImageTurns | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers. The prompt is embedded here, where it is known which placeholders are images.

        Args:
            image_features (`torch.FloatTensor` of shape `(batch_size, max_images, *image_feature_shape)`, *optional*):
                The images of each prompt, padded, so that transformers can repeat them with their prompt.
            image_token_mask (`torch.BoolTensor` of shape `(batch_size, prompt_length)`, *optional*):
                Where the embeddings of images stand. A placeholder that the model writes is a token like any other.
            turns ([`ImageTurns`], *optional*): Not used here; transformers passes on what is named here.
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
        self: Any,
        sequences: torch.Tensor,
        prompt: GenerationPrompt,
        generated: Any,
        known: dict[tuple[int, int], torch.Tensor],
    ) -> dict[str, Any]:
        """Outputs of the heads at the images in `sequences`, whose states are computed where they are not known."""
        rows, starts = find_images(sequences, self.config.image_output_token_ids)
        is_new = starts + prompt.offset >= prompt.num_cached_tokens
        rows, starts = rows[is_new], starts[is_new]
        states = self.img_embeddings.weight.new_zeros(
            len(rows), self.config.num_image_output_tokens, self.config.embedding_dim
        )
        places = list(zip(rows.tolist(), starts.tolist(), strict=True))
        is_known = torch.tensor([place in known for place in places], dtype=torch.bool)
        if is_known.any():
            found = torch.stack([known[place] for place in places if place in known])
            states = states.to(found).masked_scatter(is_known[:, None, None].to(found.device), found)
        if not is_known.all():
            unknown = ~is_known.to(rows.device)
            is_beam = getattr(generated, "beam_indices", None) is not None
            cache = None if is_beam else generated.get(CACHE_NAME)
            found = self.states_of_images(sequences, prompt, cache, rows[unknown], starts[unknown])
            states = states.to(found).masked_scatter(unknown[:, None, None].to(found.device), found)
        return {"img_batch_indices": rows, "img_start_positions": starts, **self.image_outputs(states)}

    def states_of_images(
        self: Any,
        sequences: torch.Tensor,
        prompt: GenerationPrompt,
        cache: Any | None,
        rows: torch.Tensor,
        starts: torch.Tensor,
    ) -> torch.Tensor:
        """States at images of answers, which are read once more.

        The state of the last token is never computed while generating. So the columns from the first image on are
        read over the cache of what precedes them. Where there is no such cache (beams, `use_cache=False`, sliding
        windows), the rows that hold an image are read again as a whole.

        Args:
            sequences (`torch.LongTensor` of shape `(batch_size, sequence_length)`): Prompts and answers.
            cache (`Cache`, *optional*): Of their columns; it is not changed.
            rows, starts (`torch.LongTensor` of shape `(num_images,)`): Where the images stand in `sequences`.

        Returns:
            `torch.FloatTensor` of shape `(num_images, num_image_output_tokens, embedding_dim)`.
        """
        kept, index = rows.unique(return_inverse=True)
        cache = copy_first_columns(cache, kept, prompt.offset + int(starts.min()))
        begin = 0 if cache is None else cache.get_seq_length()
        end = prompt.offset + int(starts.max()) + self.config.num_image_output_tokens
        embeds, mask = prompt.read(sequences, kept, begin, end)
        _, states = self.read_img_states(embeds, mask, past_key_values=cache, use_cache=cache is not None)
        columns = starts[:, None] + torch.arange(self.config.num_image_output_tokens, device=starts.device)
        columns = (columns + prompt.offset - begin).to(states.device)
        return self.combine_img_states(states[index[:, None].to(states.device), columns])


def _check_options(image_token_scale: Any, min_text_tokens: Any, image_callback: Any) -> None:
    """Raise a ValueError for options of `generate` that would be compared with numbers, or called, in vain."""
    is_number = isinstance(image_token_scale, Real) and not isinstance(image_token_scale, bool)
    if not is_number or not math.isfinite(image_token_scale):
        raise ValueError(f"`image_token_scale` must be a finite number, got {image_token_scale!r}.")
    if isinstance(min_text_tokens, bool) or not isinstance(min_text_tokens, int) or min_text_tokens < 0:
        raise ValueError(f"`min_text_tokens` must be an integer of at least 0, got {min_text_tokens!r}.")
    if image_callback is not None and not callable(image_callback):
        raise ValueError(f"`image_callback` must be callable, got {image_callback!r:.60}.")


def _decode(
    method: Any, input_ids: torch.Tensor, turns: ImageTurns | None, kwargs: dict[str, Any], is_sampling: bool = False
) -> Any:
    """Run a method of decoding, in turns where the answer may be written so."""
    if turns is None or not turns.apply_to(kwargs["generation_config"], is_sampling, kwargs):
        return method(input_ids, **kwargs)
    return turns.write(method, input_ids, is_sampling=is_sampling, **kwargs)


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


__all__ = [
    "GillGenerationMixin",
    "ImgTokenLogitsProcessor",
    "OpeningTokenLogitsProcessor",
    "UndefinedScoresLogitsProcessor",
    "complete_images",
    "find_images",
]
