"""Text and images in turn: transformers writes up to an image, whose tokens are then read in one pass (DreamLLM, Dong
et al., 2024, section 3.2; GILL, section 3.3)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from transformers.generation.stopping_criteria import MaxLengthCriteria

from .answer_rows_gill import AnswerRow, RowCache, RowLayout
from .decoder_traits_gill import cache_of
from .generation_cache_gill import can_be_aligned
from .generation_prompt_gill import GenerationPrompt
from .generation_segments_gill import SegmentEnd, SegmentProcessor, SegmentRows, SegmentStreamer
from .outputs_gill import CACHE_NAME, GillOutput

# Called with the images that all rows have just written; returns the features of the images to read back.
ImageCallback = Callable[[GillOutput], torch.Tensor | Sequence[torch.Tensor | None] | None]
# Arguments of the model that belong to the tokens of a segment.
_OF_TOKENS = (
    *("attention_mask", "position_ids", "inputs_embeds", "token_type_ids", "mm_token_type_ids"),
    *("image_features", "image_token_mask"),
)


class ImageTurns:
    """
    One call of `generate` whose answers are written in turns.

    Args:
        model ([`GillForConditionalGeneration`]).
        prompt ([`GenerationPrompt`]).
        image_callback (`Callable`, *optional*): See [`~GillGenerationMixin.generate`].
        pad_token_id (`int`): Fills the columns of answers that have ended.

    Attributes:
        rows (`list[AnswerRow]`): The answers, once `write` has run.
    """

    def __init__(
        self, model: Any, prompt: GenerationPrompt, image_callback: ImageCallback | None, pad_token_id: int
    ) -> None:
        self.model, self.config, self.prompt = model, model.config, prompt
        self.image_callback, self.pad_token_id = image_callback, pad_token_id
        run = self.config.image_output_run_ids
        # What follows the token that opens an image: up to the last `[IMG]` token, and what closes it.
        last = run.index(self.config.image_output_token_ids[-1]) + 1
        self.run, self.ending = run[1:last], run[last:]
        self.rows: list[AnswerRow] = []
        self.num_prompts = len(prompt.attention_mask)
        self.prompt_lengths = prompt.attention_mask.sum(1).tolist()
        self.row_cache = RowCache(model, prompt, pad_token_id)

    @property
    def are_required(self) -> bool:
        """Whether nothing but turns will do: images are read back, or their tokens are never predicted."""
        return self.image_callback is not None or not self.config.predict_image_output_tokens

    def apply_to(self, generation_config: Any, is_sampling: bool, kwargs: dict[str, Any]) -> bool:
        """
        Whether answers are to be written in turns. GILL's tokens of images can also be predicted one by one, which
        is as exact and goes with every way of decoding.

        Raises:
            ValueError: turns are needed, and do not go with an option; or the weights are shared out among processes.
        """
        if kwargs.get("synced_gpus"):
            # The images of an answer are read by the processes that have any, and the others would wait for ever.
            raise ValueError(
                "`generate` does not run in processes that share the weights out among them (FSDP, DeepSpeed ZeRO-3), "
                "for which transformers sets `synced_gpus`; expected the whole model in each process, as "
                "`from_pretrained` loads it."
            )
        is_guided = getattr(generation_config, "guidance_scale", None) not in (None, 1)
        if self.are_required:
            if is_guided:
                raise ValueError(
                    "`guidance_scale` of `generate` does not go with text and images in turn; leave it out."
                )
            return True
        cache = kwargs.get(CACHE_NAME)
        # What goes on from the cache of a batch expects the columns that transformers leaves.
        is_kept = getattr(cache, "_is_user_defined", False) and self.num_prompts > 1
        return is_sampling and bool(self.run) and can_be_aligned(cache) and not is_kept and not is_guided

    def write(
        self,
        method: Callable[..., Any],
        input_ids: torch.Tensor,
        *,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: Any,
        is_sampling: bool = True,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """
        Write the answers.

        Args:
            method (`Callable`): Of transformers: `_sample`, `_beam_search` or `_assisted_decoding`.
            is_sampling (`bool`): Whether `method` is the first, which alone goes on from a cache.
            input_ids, kwargs: What transformers has prepared for it.

        Returns:
            What `method` returns, whose fields for the steps of the decoder are those of the tokens chosen.

        Raises:
            ValueError: an image does not fit into the context, or `image_callback` returns something else than
                features.
        """
        self.criteria, self.streamer, self.num_beams = stopping_criteria, streamer, generation_config.num_beams
        self.row_cache.cache, self.row_cache.num_rows = kwargs.get(CACHE_NAME), len(input_ids)
        self.row_cache.makes_cache = self.row_cache.cache is not None and kwargs.get("use_cache") is not False
        self.goes_on_from_cache = is_sampling
        if not is_sampling or not can_be_aligned(self.row_cache.cache):
            self.prompt.read_images()
        num_rows = len(input_ids) // self.num_beams
        num_left = generation_config.max_length - input_ids.shape[1]
        self.rows = [AnswerRow(n, n // (num_rows // self.num_prompts), num_left) for n in range(num_rows)]
        for row in self.rows:
            row.place, row.num_cached = row.number, self.prompt.num_cached_tokens
        given = {name: kwargs.pop(name) for name in (*_OF_TOKENS, CACHE_NAME) if name in kwargs}
        layout = RowLayout(input_ids, given, [0] * num_rows, lacks_offset=True)
        active = self.rows
        begun = self._rows_that_end_with_an_image()
        if begun:
            self._check_beams(generation_config)
            going_on = self._finish_images(begun)
            active = [row for row in self.rows if row not in begun or row in going_on]
            layout = self._prepare(active) if active else layout
        outputs: list[Any] = []
        while active:
            copies = generation_config.num_return_sequences if self.num_beams > 1 and not outputs else 1
            options = copy.copy(generation_config)
            options.return_dict_in_generate, options.num_return_sequences = True, copies
            options.max_length = layout.width + max(self._num_left(row) for row in active)
            rows, end = self._rows_and_end(active, layout)
            if getattr(options, "_pad_token_tensor", None) is not None:
                end.eos_token_id = options._eos_token_tensor
            processors = logits_processor
            if not rows.are_those_of_the_call:
                processors = LogitsProcessorList([SegmentProcessor(logits_processor, rows)])
            if streamer is not None:
                kwargs["streamer"] = SegmentStreamer(streamer, rows)
            output = method(
                layout.input_ids,
                logits_processor=processors,
                stopping_criteria=StoppingCriteriaList([MaxLengthCriteria(options.max_length), end]),
                generation_config=options,
                **layout.inputs,
                **kwargs,
            )
            outputs.append(output)
            if copies > 1:
                active = self._copy_rows(copies)
            opened = self._take(active, layout, output, end)
            active = self._write_images(opened)
            layout = self._prepare(active) if active else layout
        if streamer is not None:
            streamer.end()
        if len(outputs) == 1 and not any(row.images for row in self.rows):
            return outputs[0] if generation_config.return_dict_in_generate else outputs[0].sequences
        return self._assemble(outputs, generation_config)

    # --- the tokens of a segment -------------------------------------------------------------------------------------

    def _rows_and_end(self, active: list[AnswerRow], layout: RowLayout) -> tuple[SegmentRows, SegmentEnd]:
        offset = 0 if layout.lacks_offset else self.prompt.offset
        shifts = [shift + offset for shift in layout.shifts]
        rows = SegmentRows([row.number for row in active], len(self.rows), shifts, self.pad_token_id)
        num_left = [self._num_left(row) for row in active]
        opening, device = self.config.opening_token_id, layout.input_ids.device
        return rows, SegmentEnd(self.criteria, rows, layout.width, num_left, opening, device)

    def _copy_rows(self, copies: int) -> list[AnswerRow]:
        self.rows = [row.copied() for row in self.rows for _ in range(copies)]
        for number, row in enumerate(self.rows):
            row.number = number
        return self.rows

    def _take(self, active: list[AnswerRow], layout: RowLayout, output: Any, end: SegmentEnd) -> list[AnswerRow]:
        """Add the tokens of a segment to its rows; return those that have opened an image."""
        written = output.sequences[:, layout.width :]
        if self.num_beams > 1:
            lengths = (output.beam_indices >= 0).sum(1).tolist()
            self.row_cache.cache = None  # it holds other beams
        else:
            lengths = [length or written.shape[1] for length in end.lengths.tolist()]
            self.row_cache.cache = output.get(CACHE_NAME)
        self.row_cache.num_rows = len(active)
        for place, (row, ids, length) in enumerate(zip(active, written.tolist(), lengths, strict=True)):
            row.add(ids[:length], False)
            row.num_left -= length
            row.num_cached = self.row_cache.prompt_width + len(row.ids) - 1
            if self.num_beams == 1:
                row.place, row.shift = place, layout.shifts[place]
                for name in ("scores", "logits"):
                    getattr(row, name).extend(step[place] for step in (output.get(name) or ())[:length])
        return [row for row in active if row.ids[-1:] == [self.config.opening_token_id]]

    def _prepare(self, rows: list[AnswerRow]) -> RowLayout:
        """The tokens of a segment, over the cache of what was read."""
        layout = self.row_cache.lay_out(rows)
        if not self.goes_on_from_cache:
            self.row_cache.cache = None
        self.row_cache.align(rows, layout)
        if self.num_beams > 1:
            layout.input_ids = layout.input_ids.repeat_interleave(self.num_beams, 0)
            layout.inputs = {name: v.repeat_interleave(self.num_beams, 0) for name, v in layout.inputs.items()}
        if self.row_cache.cache is not None:
            layout.inputs[CACHE_NAME] = self.row_cache.cache
        return layout

    # --- the tokens of an image --------------------------------------------------------------------------------------

    def _rows_that_end_with_an_image(self) -> list[AnswerRow]:
        """Rows whose prompt ends with an image of the answer that is to be read back."""
        run, ids = self.config.image_output_run_ids, self.prompt.input_ids
        ends = ids[:, -len(run) :].tolist()
        begun = [row for row in self.rows if self.image_callback is not None and ends[row.prompt] == run]
        if begun:
            before_end = len(self.config.image_output_token_ids) + len(self.ending)
            rows = torch.tensor([row.number for row in begun], device=ids.device)
            repeated = ids.repeat_interleave(len(self.rows) // self.num_prompts, 0)
            starts = torch.full_like(rows, ids.shape[1] - before_end)
            states = self.model.states_of_images(repeated, self.prompt, self.row_cache.cache, rows, starts)
            for row, state in zip(begun, states, strict=True):
                row.images.append((-before_end, state))
        return begun

    def _check_beams(self, generation_config: Any) -> None:
        copies = generation_config.num_return_sequences
        if self.num_beams > 1 and (copies > 1 or self.prompt.num_cached_tokens):
            raise ValueError(
                "Beams go on from an image at the end of a prompt without `past_key_values` and with "
                f"`num_return_sequences=1` alone; got {self.prompt.num_cached_tokens} tokens and {copies} answers."
            )

    def _write_images(self, opened: list[AnswerRow]) -> list[AnswerRow]:
        """Complete the images that rows have opened, and read them; return the rows that go on."""
        rows = [row for row in opened if self._has_room(row, len(self.run) + len(self.ending))]
        if not rows:
            return []
        for row in rows:
            row.add(self.run, True)
            if self.config.predict_image_output_tokens:  # they are tokens like any other
                row.num_left -= len(self.run)
        for row, state in zip(rows, self._read_run(rows), strict=True):
            row.images.append((len(row.ids) - len(state), state))
            row.add(self.ending, True)
        self._stream(rows, [[*self.run, *self.ending] for _ in rows])
        return self._finish_images(rows)

    def _read_run(self, rows: list[AnswerRow]) -> torch.Tensor:
        """States `(num_rows, num_image_output_tokens, embedding_dim)` at the `[IMG]` tokens that rows end with."""
        layout = self.row_cache.lay_out(rows)
        length = self.row_cache.align(rows, layout)
        images = (layout.inputs.get(name) for name in ("image_features", "image_token_mask"))
        embeds = self.model.embed_with_images(layout.input_ids[:, length:], length, *images)
        outputs, states = self.model.read_img_states(
            embeds,
            layout.inputs["attention_mask"],
            past_key_values=self.row_cache.cache,
            use_cache=self.row_cache.cache is not None,
        )
        if self.row_cache.cache is not None:
            self.row_cache.cache = cache_of(outputs) or self.row_cache.cache
            for row in rows:
                row.num_cached = self.row_cache.prompt_width + len(row.ids)
        return self.model.combine_img_states(states[:, -self.config.num_image_output_tokens :])

    def _finish_images(self, rows: list[AnswerRow]) -> list[AnswerRow]:
        """Hand the images that rows end with to `image_callback`, and let them read what it returns; return the rows
        that go on."""
        layout = self.row_cache.lay_out(rows)
        is_done = self._rows_and_end(rows, layout)[1].is_done(layout.input_ids, ()).tolist()
        going_on = [row for row, done in zip(rows, is_done, strict=True) if not done and self._num_left(row) > 0]
        if self.image_callback is not None:
            run = self.config.image_input_run_ids
            has_room = {row: self._has_room(row, len(run), is_needed=row in going_on) for row in rows}
            features = self._call_back(rows)
            read: list[list[int]] = [[] for _ in rows]
            for number, (row, feature) in enumerate(zip(rows, features, strict=True)):
                if feature is not None and has_room[row]:
                    row.features.append(feature)
                    row.add(run, True)
                    read[number] = run
            self._stream(rows, read)
        return [row for row in going_on if self._num_left(row) > 0]

    def _call_back(self, rows: list[AnswerRow]) -> Sequence[torch.Tensor | None]:
        assert self.image_callback is not None
        device, begin = self.prompt.input_ids.device, self.prompt.input_ids.shape[1]
        images = self.model.image_outputs(torch.stack([row.images[-1][1] for row in rows]))
        returned = self.image_callback(
            GillOutput(
                img_batch_indices=torch.tensor([row.number for row in rows], device=device),
                img_start_positions=torch.tensor([begin + row.images[-1][0] for row in rows], device=device),
                **images,
            )
        )
        features = [None] * len(rows) if returned is None else list(returned)
        shape = self.config.image_feature_shape
        wrong = [tuple(one.shape) for one in features if one is not None and tuple(one.shape) != shape]
        if len(features) != len(rows) or wrong:
            raise ValueError(
                f"`image_callback` must return image features of shape {shape} or None for each of {len(rows)} "
                f"images, got {len(features)}" + (f", one of them of shape {wrong[0]}." if wrong else ".")
            )
        return features

    def _stream(self, rows: list[AnswerRow], tokens: list[list[int]]) -> None:
        if self.streamer is not None:
            of_rows = SegmentRows([row.number for row in rows], len(self.rows), [0] * len(rows), self.pad_token_id)
            SegmentStreamer(self.streamer, of_rows).put_columns(tokens)

    def _num_left(self, row: AnswerRow) -> int:
        """Tokens that a row may still choose: an answer ends where the context does."""
        longest = self.config.max_position_embeddings
        room = row.num_left if longest is None else longest - self.prompt_lengths[row.prompt] - len(row.ids)
        return min(row.num_left, room)

    def _has_room(self, row: AnswerRow, num_tokens: int, is_needed: bool | None = None) -> bool:
        """Whether so many tokens that nobody chooses fit into the context.

        Raises:
            ValueError: they do not, and the row cannot do without them.
        """
        longest = self.config.max_position_embeddings
        length = self.prompt_lengths[row.prompt] + len(row.ids)
        if longest is None or length + num_tokens <= longest:
            return True
        if self.are_required if is_needed is None else is_needed:
            raise ValueError(
                f"Prompt {row.prompt} and its answer have {length} tokens, and an image of {num_tokens} more does not "
                f"fit into the {longest} that the language model reads; expected fewer images or a shorter prompt."
            )
        return False

    # --- the output --------------------------------------------------------------------------------------------------

    def _assemble(self, outputs: list[Any], generation_config: Any) -> Any:
        prompt_ids = self.prompt.input_ids
        longest = max(len(row.ids) for row in self.rows)
        answers = [row.ids + [self.pad_token_id] * (longest - len(row.ids)) for row in self.rows]
        prompts = prompt_ids[torch.tensor([row.prompt for row in self.rows], device=prompt_ids.device)]
        sequences = torch.cat([prompts, prompts.new_tensor(answers).view(len(self.rows), longest)], dim=1)
        if not generation_config.return_dict_in_generate:
            return sequences
        fields: dict[str, Any] = {"sequences": sequences}
        for name in ("scores", "logits"):
            if self.num_beams == 1 and outputs and outputs[0].get(name) is not None:
                fields[name] = _stack_steps([getattr(row, name) for row in self.rows])
        if len(self.rows) == 1 and self.num_beams == 1:
            (row,) = self.rows
            length = min(row.num_cached, self.row_cache.prompt_width + len(row.ids) - 1)
            fields[CACHE_NAME] = self.row_cache.columns_of([row], [row.shift], length)
            for name in ("hidden_states", "attentions"):
                steps = [output[name] for output in outputs if output.get(name) is not None]
                fields[name] = tuple(step for part in steps for step in part) if steps else None
        kind = GenerateBeamDecoderOnlyOutput if self.num_beams > 1 else GenerateDecoderOnlyOutput
        return kind(**fields)

    def forced_token_mask(self, sequences: torch.Tensor) -> torch.Tensor:
        """Booleans in the shape of the sequences: which tokens of the answers nobody has chosen."""
        mask = torch.zeros_like(sequences, dtype=torch.bool)
        begin = self.prompt.input_ids.shape[1]
        for row in self.rows:
            forced = torch.tensor(row.forced, dtype=torch.bool, device=mask.device)
            mask[row.number, begin : begin + len(forced)] = forced
        return mask

    def states(self) -> dict[tuple[int, int], torch.Tensor]:
        """States at the `[IMG]` tokens by row and column of `[IMG0]`."""
        begin = self.prompt.input_ids.shape[1]
        return {(row.number, begin + start): state for row in self.rows for start, state in row.images}


def _stack_steps(steps_of_rows: list[list[torch.Tensor]]) -> tuple[torch.Tensor, ...]:
    """One tensor `(num_rows, vocab_size)` for each token that rows chose, 0 where a row chose fewer."""
    like = next((steps[0] for steps in steps_of_rows if steps), None)
    if like is None:
        return ()
    nothing = torch.zeros_like(like)
    count = max(map(len, steps_of_rows))
    filled = [[*steps, *[nothing] * (count - len(steps))] for steps in steps_of_rows]
    return tuple(torch.stack(step) for step in zip(*filled, strict=True))


__all__ = ["AnswerRow", "ImageCallback", "ImageTurns"]
