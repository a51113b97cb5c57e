"""Interleaved prompts to left-padded batches, and written tokens back to text and images."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, ProcessorMixin

from .prompt_gill import Piece, list_prompts, place_images, split_prompt

# The paper's dialogues (section 4.2): questions and answers, and nothing around them.
DEFAULT_CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}{{ 'Q: ' }}{%- elif message.role == 'assistant' -%}{{ 'A: ' }}{%- endif -%}"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{ part.text }}"
    "{%- elif part.type.startswith('image') -%}{{ image_token or '<|image|>' }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if not loop.last or add_generation_prompt -%}{{ '\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'A:' }}{%- endif -%}"
)


class GillProcessor(ProcessorMixin):
    r"""
    The image encoder's image processor and the language model's tokenizer, with the tokens of images added.

    Args:
        image_processor: Preprocessing of the image encoder.
        tokenizer: Tokenizer that knows `image_token` and `img_tokens`.
        num_visual_tokens (`int`, defaults to 4): Placeholders that an image read takes [`k` in the paper].
        img_tokens (`list[str]`, *optional*, defaults to `[IMG0]`..`[IMG7]`): Tokens of an image answered.
        image_token (`str`, defaults to `"<|image|>"`): The placeholder.
        chat_template (`str`, *optional*): Jinja template for chat messages, by default the paper's `Q: ...\nA:`.

    Raises:
        ValueError: a tokenizer that lacks one of the tokens, or that has nothing to pad with.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_visual_tokens: int = 4,
        img_tokens: list[str] | None = None,
        image_token: str = "<|image|>",
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_visual_tokens = num_visual_tokens
        self.img_tokens = [f"[IMG{i}]" for i in range(8)] if img_tokens is None else list(img_tokens)
        self.image_token = image_token
        super().__init__(image_processor, tokenizer, chat_template=chat_template or DEFAULT_CHAT_TEMPLATE)
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (image_token, *self.img_tokens) if token not in vocabulary]
        if missing:
            raise ValueError(f"The tokenizer lacks {missing}; add them with `GillProcessor.extend_tokenizer`.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no `pad_token` to pad batches with; set one.")
        self.image_token_id: int = vocabulary[image_token]
        self.image_output_token_ids: list[int] = [vocabulary[token] for token in self.img_tokens]

    @staticmethod
    def extend_tokenizer(tokenizer: Any, img_tokens: Sequence[str], image_token: str = "<|image|>") -> Any:
        """Add the tokens of images to a language model's tokenizer, in the authors' order; returns it."""
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        tokenizer.add_special_tokens({"cls_token": image_token})
        tokenizer.add_tokens(list(img_tokens), special_tokens=True)
        return tokenizer

    def __call__(  # type: ignore[override]
        self,
        prompt: Any = None,
        *,
        text: str | Sequence[str] | None = None,
        images: Any = None,
        add_special_tokens: bool = True,
        add_img_tokens: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Make a left-padded batch of prompts.

        Args:
            prompt: One prompt, or a list of prompts. A prompt is a string; an image (PIL image of any mode, array,
                tensor, path or URL); a list of both, where a string that is nothing but a URL or the path of an image
                is that image; or chat messages `[{"role": ..., "content": [{"type": "image" | "text", ...}]}]`.
            text (`str` or `list[str]`, *optional*), images (*optional*):
                In place of `prompt`: texts with one placeholder an image, and the images, in one list or one a text.
            add_special_tokens (`bool`, defaults to `True`): Put the BOS token before the first text of each prompt.
            add_img_tokens (`bool`, defaults to `False`): End each prompt with the tokens that ask for an image.

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask` of shape `(prompts, tokens)`, and where there are
            images `pixel_values` of shape `(images, channels, height, width)`, in reading order of the batch.

        Raises:
            ValueError: a prompt that is empty, of a wrong type or with an image that cannot be read, naming it.
        """
        unknown = {name: value for name, value in kwargs.items() if value is not None and name not in _IGNORED}
        if unknown:
            raise TypeError(f"GillProcessor takes no {sorted(unknown)}.")
        batch = self._split_texts(text, images) if text is not None or images is not None else []
        if prompt is not None or not batch:
            if batch:
                raise ValueError("Give either `prompt` or `text` and `images`, not both.")
            batch = [
                split_prompt(one, f"Prompt {number}", self.image_token, self._render_chat)
                for number, one in enumerate(list_prompts(prompt))
            ]
        ids = [self._encode(pieces, add_special_tokens, add_img_tokens) for pieces in batch]
        data = dict(self.tokenizer.pad({"input_ids": ids}, padding_side="left", return_attention_mask=True))
        loaded = [piece for pieces in batch for piece in pieces if not isinstance(piece, str)]
        if loaded:
            data["pixel_values"] = self.image_processor(images=loaded, return_tensors=return_tensors)["pixel_values"]
        return BatchFeature(data, tensor_type=return_tensors)

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        # Pillow resizes as the authors' code did; torchvision, where it is installed, gives other pixels.
        backend = kwargs.pop("backend", None) or "pil"
        image_processor = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path, backend=backend, **kwargs)
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values"]

    def split_answer(
        self, ids: Sequence[int], max_images: int | None = None, truncate_text: bool = True
    ) -> list[str | int]:
        """Take the ids of an answer apart into texts and images.

        Args:
            ids (`Sequence[int]`): What was written, prompt not included.
            max_images (`int`, *optional*): The answer ends with the last of so many images.
            truncate_text (`bool`, defaults to `True`):
                End the answer at the first newline that is not its first token, and each text at its first newline or
                else after its first full stop (paper, section 3.3).

        Returns:
            `list[str | int]`: Texts, and for each image the index of its `[IMG0]` in `ids`. No text is empty.
        """
        ids = [int(i) for i in ids]
        if truncate_text and (newline := self.newline_token_id) in ids[1:]:
            ids = ids[: ids.index(newline, 1)]
        pieces: list[str | int] = []
        begin = position = 0
        runs = len(self.image_output_token_ids)
        while position < len(ids):
            if max_images is not None and sum(isinstance(piece, int) for piece in pieces) >= max_images:
                return pieces
            if ids[position : position + runs] == self.image_output_token_ids:
                pieces += [*self._decode_text(ids[begin:position], truncate_text), position]
                position += runs
                begin = position
            else:
                position += 1
        return pieces + self._decode_text(ids[begin:], truncate_text)

    @property
    def newline_token_id(self) -> int:
        """Id of the token that ends an answer; the last one where a newline takes several."""
        return self.tokenizer("\n", add_special_tokens=False).input_ids[-1]

    def _decode_text(self, ids: list[int], truncate: bool) -> list[str | int]:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        if truncate:
            text = text.strip("\n")
            newline, stop = text.find("\n"), text.find(".")
            text = text[:newline] if newline >= 0 else text[: stop + 1] if stop >= 0 else text
        return [text] if text.strip() else []

    def _encode(self, pieces: list[Piece], add_special_tokens: bool, add_img_tokens: bool) -> list[int]:
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, str):
                # Whatever the language model wants at its beginning comes once, before the first text.
                ids += self.tokenizer(piece, add_special_tokens=add_special_tokens).input_ids
                add_special_tokens = False
            else:
                ids += [self.image_token_id] * self.num_visual_tokens
        if add_img_tokens and ids[-len(self.image_output_token_ids) :] != self.image_output_token_ids:
            ids += self.image_output_token_ids
        return ids

    def _split_texts(self, text: str | Sequence[str] | None, images: Any) -> list[list[Piece]]:
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(one, str) for one in texts):
            raise ValueError(f"`text` must be a string or a list of strings, got {text!r:.60}.")
        if images is None:
            images = []
        elif not isinstance(images, (list, tuple)):
            images = [images]
        wanted = [one.count(self.image_token) for one in texts]
        if any(isinstance(some, (list, tuple)) for some in images):
            if len(images) != len(texts):
                raise ValueError(f"`images` holds {len(images)} lists for {len(texts)} texts; expected one each.")
            sources = [list(some or []) for some in images]
        else:
            if sum(wanted) != len(images):
                raise ValueError(
                    f"The texts hold {sum(wanted)} placeholders {self.image_token!r} for {len(images)} images; "
                    "expected one each."
                )
            remaining = iter(images)
            sources = [[next(remaining) for _ in range(count)] for count in wanted]
        return [
            place_images(one, some, self.image_token, f"Text {number}")
            for number, (one, some) in enumerate(zip(texts, sources, strict=True))
        ]

    def _render_chat(self, messages: list[dict[str, Any]]) -> str:
        answers = messages[-1]["role"] != "assistant"
        return self.apply_chat_template(
            messages, add_generation_prompt=answers, image_token=self.image_token, tokenize=False
        )


# transformers passes these for other processors' sake.
_IGNORED = {"padding", "legacy", "return_attention_mask"}

GillProcessor.register_for_auto_class()

__all__ = ["DEFAULT_CHAT_TEMPLATE", "GillProcessor"]
