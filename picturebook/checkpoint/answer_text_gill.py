"""The text of an answer: prompts go into the model, and what it writes is split into texts and places of images."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, StoppingCriteriaList

from .image_preprocessing_gill import preprocess_images
from .outputs_gill import GillGenerateOutput

from .answer_gill import AnswerEnd, ImageSlot
from .image_generator_gill import ImageGeneratorMixin
from .pipeline_output_gill import as_pil


class AnswerTextMixin(ImageGeneratorMixin):
    """The steps of a call of [`GillPipeline`] that run the language model."""

    def encode_prompt(self, prompts: Sequence[Any], force_image: bool, **kwargs: Any) -> BatchFeature:
        """The batch that the model reads; `kwargs` are those of the processor."""
        self._onload_model()
        return self.processor(prompts, add_img_tokens=force_image, **kwargs).to(self._model_device)

    def generate_text(
        self,
        batch: BatchFeature,
        *,
        force_image: bool,
        max_images: int,
        truncate_text: bool,
        num_return_sequences: int,
        filled: dict[tuple[int, int], ImageSlot] | None = None,
        **kwargs: Any,
    ) -> tuple[list[list[str | ImageSlot]], GillGenerateOutput]:
        """Let the model answer.

        Args:
            filled (`dict[tuple[int, int], ImageSlot]`, *optional*):
                Slots that are filled while the model writes, by row and column of `[IMG0]`.
            kwargs: Those of [`~GillForConditionalGeneration.generate`].

        Returns:
            For each answer its texts and a slot for each of its images, and what the model returned. The
            `num_return_sequences` answers of a prompt follow each other.
        """
        # A forced image stands at the end of the prompt and is the first of the answer.
        image_tokens = self.processor.image_output_token_ids
        begin = batch["input_ids"].shape[1] - (len(self.processor.image_output_run_ids) if force_image else 0)
        if force_image and max_images == 1:
            # The answer ends with the image: there is nothing to generate.
            output = self._read_forced_image(batch, begin, kwargs.get("streamer"))
        else:
            end = AnswerEnd(image_tokens, begin, max_images, self.processor.newline_token_id if truncate_text else None)
            kwargs["stopping_criteria"] = StoppingCriteriaList([end, *(kwargs.get("stopping_criteria") or [])])
            if kwargs.get("stop_strings") is not None:
                kwargs.setdefault("tokenizer", self.processor.tokenizer)
            output = self.model.generate(
                **batch, num_return_sequences=num_return_sequences, return_dict_in_generate=True, **kwargs
            )
        places = zip(output.img_batch_indices.tolist(), output.img_start_positions.tolist(), strict=True)
        images = {place: image for image, place in enumerate(places)}
        rows = output.sequences[:, begin:].tolist()
        copies = num_return_sequences * len(batch["input_ids"]) // len(rows)
        answers: list[list[str | ImageSlot]] = []
        for row, ids in enumerate(rows):
            # Beams that ended early may be filled with -1.
            pieces = self.processor.split_answer([i for i in ids if i >= 0], max_images, truncate_text)
            for _ in range(copies):
                answer: list[str | ImageSlot] = []
                for piece in pieces:
                    if isinstance(piece, str):
                        answer.append(piece)
                        continue
                    place, number = (row, begin + piece), sum(isinstance(one, ImageSlot) for one in answer)
                    slot = None if filled is None else filled.get(place)
                    prompt = len(answers) // num_return_sequences
                    answer.append(slot or ImageSlot(prompt, len(answers), images[place], number=number))
                answers.append(answer)
        return answers, output

    @torch.no_grad()
    def read_images(self, slots: Sequence[ImageSlot]) -> list[torch.Tensor | None]:
        """Image features for the model of the image that goes first in each slot, as it is shown: in 8 bits.

        Returns:
            `list[torch.Tensor | None]`: Of shape `config.image_feature_shape`; `None` where there is no image.
        """
        self._onload_model()
        shown = [slot.finished("pil")[0].image for slot in slots]
        images = [as_pil(image) for image in shown if image is not None]
        if not images:
            return [None] * len(slots)
        prepared = preprocess_images(self.processor.image_processor, images)
        features = iter(self.model.get_image_features(**prepared).pooler_output)
        return [None if image is None else next(features) for image in shown]

    def _read_forced_image(self, batch: BatchFeature, begin: int, streamer: Any) -> GillGenerateOutput:
        read = self.model(**batch, logits_to_keep=1, use_cache=False, output_images=True)
        if streamer is not None:
            # As if the model had generated the image: the prompt, then token by token.
            ids = batch["input_ids"].cpu()
            streamer.put(ids[:, :begin])
            for column in range(begin, ids.shape[1]):
                streamer.put(ids[:, column])
            streamer.end()
        fields = {name: value for name, value in read.items() if name in GillGenerateOutput.__dataclass_fields__}
        return GillGenerateOutput(**{**fields, "sequences": batch["input_ids"]})


__all__ = ["AnswerTextMixin"]
