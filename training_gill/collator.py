"""Images and captions to batches: tokens of both passes, examples packed in pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from modeling_gill import GillProcessor
from modeling_gill.image_loading_gill import ImageError
from modeling_gill.image_preprocessing_gill import preprocess_images

from .caches import ImageFeatureCache, LanguageStatesCache, TextTargetsCache
from .seeded_random import random_fraction
from .target_images import target_image
from .training_data import load_example_image

_REQUEST_PROBABILITY = 0.5


class UnreadableExample(ValueError):
    """An example that cannot be trained on; the message names it and says why."""


class CaptionedImageCollator:
    """
    Makes the batches of [`AdapterTrainingStep`].

    The r `[IMG]` tokens are appended to a caption, which is truncated so that both fit into `max_length`. An example
    makes two rows: a *captioning* row, `k` image placeholders and the caption without `[IMG]`, of which the caption is
    predicted; and a *text* row, the caption and the `[IMG]` tokens, of which caption and `[IMG0]` are predicted.
    Captioning rows come first, then text rows, all padded on the right to the longest of the batch.

    With probability `packing` two neighbouring examples share a row, the second without its BOS. In captioning rows
    both captions are predicted, in text rows nothing after the first `[IMG0]` (in the authors' code the labels end at
    the first `[IMG1]`). The random number of a pair depends on the seed and the indices of both examples alone, so that
    it is the same in every process, worker and run.

    With `context`, at most that many captions of other examples of the batch precede the example's own caption in text
    rows. They have no `[IMG]` tokens and are not predicted. Without them, `[IMG]` learns captions by the positions of
    their words, and fails after longer prompts. With `context_images`, images follow some of these captions, as in
    prompts. With `request`, half of the captions are followed by the request and repeated after it, as the model's
    answer.

    With `language_states` there are no text rows: the states at the `[IMG]` tokens after each caption alone are read.

    An example that cannot be read is left out of the batch; its name and the reason go into `skipped`.

    Args:
        processor ([`GillProcessor`]): Of the model that is trained.
        max_length (`int`, defaults to 32): Tokens of a caption with its `[IMG]` tokens, BOS included.
        packing (`float`, defaults to 0.5): Probability that a pair shares a row; 0 never, 1 always.
        seed (`int`, defaults to 0): Of all random numbers.
        text_targets ([`TextTargetsCache`], *optional*): Source of `target_conditioning`.
        image_features ([`ImageFeatureCache`], *optional*): Source of `image_features`; images are then not opened.
        context (`int`, defaults to 0): Maximum number of other captions before an example's own.
        context_separator (`str`, defaults to a newline): Text after each of them.
        context_images (`float`, defaults to 0): Probability that the image of such a caption follows it.
        request (`str`, *optional*): Text that asks for an image.
        language_states ([`LanguageStatesCache`], *optional*): Source of `img_states`.
        target_size (`int`, *optional*): Side in pixels of `target_images`, which the denoising loss draws.

    Raises:
        ValueError: `language_states` with something before a caption; a `max_length` that leaves no room for a caption,
            a probability outside of [0, 1], or a negative `context`.
    """

    def __init__(
        self,
        processor: GillProcessor,
        max_length: int = 32,
        packing: float = 0.5,
        seed: int = 0,
        text_targets: TextTargetsCache | None = None,
        image_features: ImageFeatureCache | None = None,
        context: int = 0,
        context_separator: str = "\n",
        context_images: float = 0.0,
        request: str = "",
        language_states: LanguageStatesCache | None = None,
        target_size: int | None = None,
    ) -> None:
        if context < 0:
            raise ValueError(f"`context` is a number of captions, got {context}.")
        num_image_output_tokens = len(processor.image_output_token_ids)
        if max_length < num_image_output_tokens + 2:
            raise ValueError(
                f"`max_length` is {max_length}, which leaves no room for a caption beside the "
                f"{num_image_output_tokens} `[IMG]` tokens; expected at least {num_image_output_tokens + 2}."
            )
        for name, value in (("packing", packing), ("context_images", context_images)):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` is a probability, got {value}.")
        if language_states is not None and (context or request):
            raise ValueError(
                f"The states of captions are those of a caption alone, but `context` is {context} and `request` "
                f"{request!r}; expected neither, or no cache of states."
            )
        self.language_states = language_states
        self.target_size = target_size
        self.processor = processor
        self.max_length = max_length
        self.packing = packing
        self.seed = seed
        self.text_targets = text_targets
        self.image_features = image_features
        self.context = context
        self.context_images = context_images
        self._separator, self._request = (
            processor.tokenizer(text, add_special_tokens=False).input_ids if text else []
            for text in (context_separator, request)
        )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Args:
            examples: Mappings with `index` (`int`), `name` (`str`, for messages), `key` (`str`, of the caches),
                `image` (anything that `load_image` takes), `caption` (`str`) and optionally `target_caption` (`str`,
                of the cache of targets, by default the caption); one may bring its own
                `image_features` or `target_conditioning`, a `dict` of arrays in the form of
                [`GillOutput.conditioning`] without the first dimension.

        Returns:
            `dict`: `index` of shape `(num_images,)`; `input_ids`, `attention_mask`, `labels` of shape `(batch_size,
            sequence_length)`; `pixel_values` and whatever else the image processor makes, or `image_features`;
            `img_states` of shape `(num_images, num_image_output_tokens, embedding_dim)` where states are cached;
            `target_conditioning` where there are targets, a `dict` of tensors that are padded to the longest of the
            batch; `skipped`, a list of messages; and with `context_images` the indices `(num_context_images,)` of the
            images in text rows among those of the batch, in reading order. Of a batch of which nothing can be read,
            `index` is empty.
        """
        read, skipped = [], []
        for example in examples:
            try:
                read.append(self._read(example))
            except UnreadableExample as error:
                skipped.append(str(error))
        captioning = self._pack([self._captioning_row(ids) for ids, _ in read], read, "captioning")
        contexts = [self._context(number, read) for number in range(len(read))]
        text: list[tuple[list[int], list[int]]] = []
        if self.language_states is None:
            rows_of_text = [self._text_row(ids, before) for (ids, _), (before, _) in zip(read, contexts, strict=True)]
            text = self._pack(rows_of_text, read, "text")
        rows = captioning + text
        pad = self.processor.tokenizer.pad_token_id
        batch: dict[str, Any] = {
            "index": torch.tensor([fields["index"] for _, fields in read], dtype=torch.long),
            "input_ids": pad_rows([ids for ids, _ in rows], pad),
            "attention_mask": pad_rows([[1] * len(ids) for ids, _ in rows], 0),
            "labels": pad_rows([labels for _, labels in rows], -100),
        }
        for name in sorted({name for _, fields in read for name in fields} - {"index", "target_conditioning"}):
            batch[name] = torch.stack([fields[name] for _, fields in read if name in fields])
        targets = [fields["target_conditioning"] for _, fields in read if "target_conditioning" in fields]
        if targets:
            batch["target_conditioning"] = {
                name: pad_sequence([target[name] for target in targets], batch_first=True) for name in targets[0]
            }
        if self.context_images:
            batch["context_images"] = torch.tensor(
                [index for _, shown in contexts for index in shown], dtype=torch.long
            )
        batch["skipped"] = skipped
        return batch

    def caption_ids(self, caption: str) -> list[int]:
        """Ids of a caption and the `[IMG]` tokens, at most `max_length`."""
        img = self.processor.image_output_token_ids
        ids = self.processor.tokenizer(caption, add_special_tokens=True).input_ids
        return ids[: self.max_length - len(img)] + img

    def _read(self, example: Mapping[str, Any]) -> tuple[list[int], dict[str, Any]]:
        name, caption = example["name"], example["caption"]
        if not isinstance(caption, str) or not caption.strip():
            raise UnreadableExample(f"{name}: the caption is {caption!r}; expected text")
        ids = self.caption_ids(caption)
        special = {self.processor.image_token_id, *self.processor.image_output_token_ids}
        if special.intersection(ids[: -len(self.processor.image_output_token_ids)]):
            raise UnreadableExample(f"{name}: the caption holds a token that stands for an image: {caption!r:.80}")
        fields: dict[str, Any] = {"index": int(example["index"])}
        has_features = "image_features" in example or self.image_features is not None
        if self.target_size is not None or not has_features:
            try:
                image = load_example_image(example)
                if self.target_size is not None:
                    fields["target_images"] = target_image(image, self.target_size)
            except ImageError as error:
                raise UnreadableExample(f"{name}: {error}") from error
        if "image_features" in example:
            fields["image_features"] = torch.as_tensor(example["image_features"]).float()
        elif self.image_features is not None:
            if example["key"] in self.image_features.unreadable:
                raise UnreadableExample(f"{name}: {self.image_features.unreadable[example['key']]}")
            fields["image_features"] = self.image_features[example["key"]]
        else:
            prepared = preprocess_images(self.processor.image_processor, [image])
            fields |= {name: torch.as_tensor(values[0]) for name, values in prepared.items()}
        if "target_conditioning" in example:
            own = {name: torch.as_tensor(value) for name, value in example["target_conditioning"].items()}
            fields["target_conditioning"] = own
        elif self.text_targets is not None:
            fields["target_conditioning"] = self.text_targets[example.get("target_caption") or caption]
        if self.language_states is not None:
            fields["img_states"] = self.language_states[caption]
        return ids, fields

    def _captioning_row(self, ids: list[int]) -> tuple[list[int], list[int]]:
        k = self.processor.num_visual_tokens
        caption = ids[: -len(self.processor.image_output_token_ids)]
        return [self.processor.image_token_id] * k + caption, [-100] * k + caption

    def _text_row(self, ids: list[int], before: list[int]) -> tuple[list[int], list[int]]:
        later = len(self.processor.image_output_token_ids) - 1
        labels = ids[: len(ids) - later] + [-100] * later
        # A row has one BOS, its first token.
        at = int(ids[0] == self.processor.tokenizer.bos_token_id)
        return ids[:at] + before + ids[at:], [-100] * (at + len(before)) + labels[at:] if before else labels

    def _context(self, number: int, read: Sequence[tuple[list[int], dict[str, Any]]]) -> tuple[list[int], list[int]]:
        """Ids of what precedes a caption, and the indices of the images in it.

        These are other captions of the batch, each with its separator, without BOS and `[IMG]`, and in half of the
        cases the caption itself with the request.
        """
        if not (self.context or self._request):
            return [], []
        own, fields = read[number]
        bos, r = self.processor.tokenizer.bos_token_id, len(self.processor.image_output_token_ids)
        index = fields["index"]

        def as_context(ids: list[int]) -> list[int]:
            return [token for token in ids[:-r] if token != bos] + self._separator

        others = [other for other in range(len(read)) if other != number]
        before: list[int] = []
        shown: list[int] = []
        for at in range(int(self.coin([index], "context") * (self.context + 1)) if others else 0):
            other = others[int(self.coin([index, at], "whose context") * len(others))]
            before += as_context(read[other][0])
            if self.coin([index, at], "its image") < self.context_images:
                before += [self.processor.image_token_id] * self.processor.num_visual_tokens
                shown.append(other)
        if self._request and self.coin([index], "request") < _REQUEST_PROBABILITY:
            before += as_context(own) + self._request
        return before, shown

    def _pack(
        self, rows: list[tuple[list[int], list[int]]], read: Sequence[tuple[Any, dict[str, Any]]], which: str
    ) -> list[tuple[list[int], list[int]]]:
        packed = []
        for number in range(0, len(rows), 2):
            pair = rows[number : number + 2]
            indices = [fields["index"] for _, fields in read[number : number + 2]]
            if len(pair) == 2 and self.coin(indices, which) < self.packing:
                (ids, labels), (second, second_labels) = pair
                at = self.processor.num_visual_tokens if which == "captioning" else 0
                if second[at] == self.processor.tokenizer.bos_token_id:
                    second, second_labels = second[:at] + second[at + 1 :], second_labels[:at] + second_labels[at + 1 :]
                if which == "text":
                    second_labels = [-100] * len(second)
                packed.append((ids + second, labels + second_labels))
            else:
                packed.extend(pair)
        return packed

    def coin(self, indices: Sequence[int], which: str) -> float:
        """A number in [0, 1) that depends on the seed, the indices and the purpose `which` alone."""
        return random_fraction(self.seed, indices, which)


def pad_rows(rows: Sequence[Sequence[int]], padding: int, side: str = "right") -> torch.Tensor:
    """Rows as one tensor, `(num_rows, longest)`, padded on one side."""
    longest = max((len(row) for row in rows), default=1)
    fills = [[padding] * (longest - len(row)) for row in rows]
    padded = [[*fill, *row] if side == "left" else [*row, *fill] for row, fill in zip(rows, fills, strict=True)]
    return torch.tensor(padded, dtype=torch.long).reshape(len(rows), longest)


__all__ = ["CaptionedImageCollator", "UnreadableExample", "pad_rows"]
