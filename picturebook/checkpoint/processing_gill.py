"""Convert prompts of text and images to left-padded batches."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer, BatchFeature, ProcessorMixin
from transformers.processing_utils import MultiModalData
from transformers.utils import logging

from .answer_tokens_gill import AnswerTokensMixin
from .chat_template_gill import (
    DEFAULT_CHAT_TEMPLATE,
    check_template_kwargs,
    own_chat_template,
    reads_variable,
    render_open_answer,
)
from .image_loading_gill import ImageLimits, ImageReader
from .image_preprocessing_gill import load_image_processor, preprocess_images, with_pil
from .image_sources_gill import IMAGE_SOURCES, check_allowed_sources
from .processing_kwargs_gill import GillProcessorKwargs, check_kwargs
from .prompt_gill import TEXT_BREAK, ImageSource, Piece, PromptSplitter, list_prompts
from .prompt_tokens_gill import PromptTokensMixin

logger = logging.get_logger(__name__)


class GillProcessor(PromptTokensMixin, AnswerTokensMixin, ProcessorMixin):
    r"""
    Wraps the image encoder's image processor and the language model's tokenizer with the image tokens added.

    Args:
        image_processor: Image processor of the image encoder.
        tokenizer: Tokenizer that knows `image_token` and `img_tokens`.
        num_visual_tokens (`int`, defaults to 4): Number of placeholders of an input image [`k` in the paper].
        img_tokens (`list[str]`, *optional*, defaults to `[IMG0]`..`[IMG7]`): Tokens of an output image.
        image_token (`str`, defaults to `"<|image|>"`): The placeholder of an input image.
        chat_template (`str`, *optional*): Jinja template for chat messages, by default the tokenizer's own, or the
            paper's `Q: ...\nA:` for a tokenizer without one.
        truncate_text (`bool`, *optional*): Whether answers end at a newline and texts after a full stop, as in the
            paper. By default not where the chat template is the tokenizer's own: such a language model ends its answers
            itself.
        split_image_tokens (`bool`, *optional*, defaults to `True`, for the single token `[RET]` of FROMAGe to `False`):
            Tokenize `img_tokens` that somebody typed in a prompt as ordinary text. With `False` they are the special
            tokens, which request an image. A typed `image_token` is text in any case, but for the argument `text`. Of
            a tokenizer with tokens around images, all special tokens but those of texts (BOS, EOS) are meant.
        allowed_image_sources (`Collection[str]`, *optional*, defaults to all):
            Where the images of a prompt may come from: some of `"memory"`, `"data"`, `"public_url"`, `"url"` and
            `"file"`, see [`load_image`]. A server whose prompts come from strangers needs
            `("memory", "data", "public_url")` or less. Saved with the processor.
        image_start_token, image_end_token (`str`, *optional*):
            Tokens around the placeholders of an input image (DreamLLM: `<im_start>`, `<im_end>`).
        image_output_start_token, image_output_end_token (`str`, *optional*):
            Tokens around the tokens of an output image (DreamLLM: `<dream_start>`, `<dream_end>`).
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Variables of the chat template, such as `{"enable_thinking": False}` for Qwen3's. Saved with the processor.

    Attributes:
        image_input_run_ids, image_output_run_ids (`list[int]`):
            Ids of an image in a prompt and in an answer, as those of [`GillConfig`].
        image_limits ([`ImageLimits`]): Limits on the images of a call. Not saved with the processor.

    Raises:
        ValueError: a tokenizer that lacks one of the tokens or has no `pad_token`, an unknown image source, a variable
            that the chat template does not read, or a value of another type, naming the argument.

    Example:

    ```python
    >>> from modeling_gill import GillProcessor
    >>> from PIL import Image

    >>> processor = GillProcessor.from_pretrained("picturebook/checkpoint")
    >>> batch = processor([[Image.new("RGB", (8, 8)), "what is this ?"], "a red circle"])
    >>> sorted(batch)
    ['attention_mask', 'input_ids', 'pixel_values']
    ```
    """

    valid_processor_kwargs = GillProcessorKwargs

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        num_visual_tokens: int = 4,
        img_tokens: list[str] | None = None,
        image_token: str = "<|image|>",
        chat_template: str | None = None,
        split_image_tokens: bool | None = None,
        allowed_image_sources: Collection[str] | None = None,
        truncate_text: bool | None = None,
        image_start_token: str | None = None,
        image_end_token: str | None = None,
        image_output_start_token: str | None = None,
        image_output_end_token: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if type(num_visual_tokens) is not int or num_visual_tokens < 1:
            raise ValueError(f"`num_visual_tokens` must be a positive integer, got {num_visual_tokens!r}.")
        if img_tokens is not None and (isinstance(img_tokens, str) or not 0 < len(set(img_tokens)) == len(img_tokens)):
            raise ValueError(f"`img_tokens` must be a list of one or more different tokens, got {img_tokens!r:.80}.")
        for name, flag in (("split_image_tokens", split_image_tokens), ("truncate_text", truncate_text)):
            if flag not in (None, True, False):
                raise ValueError(f"`{name}` must be True, False or None, got {flag!r:.80}.")
        self.num_visual_tokens = num_visual_tokens
        self.img_tokens = [f"[IMG{i}]" for i in range(8)] if img_tokens is None else list(img_tokens)
        # The prompts of FROMAGe's authors type [RET], and repositories converted by older versions do not say so.
        self.split_image_tokens = self.img_tokens != ["[RET]"] if split_image_tokens is None else split_image_tokens
        self.image_token = image_token
        self.image_start_token, self.image_end_token = image_start_token, image_end_token
        self.image_output_start_token = image_output_start_token
        self.image_output_end_token = image_output_end_token
        self.allowed_image_sources = (
            None if allowed_image_sources is None else list(check_allowed_sources(allowed_image_sources))
        )
        self.image_limits = ImageLimits()
        self._warned_of_unknown_words = False
        own_template = None if chat_template else own_chat_template(tokenizer, image_token)
        # Repositories of older versions have a template and do not say so.
        self.truncate_text = own_template is None if truncate_text is None else truncate_text
        chat_template = chat_template or own_template or DEFAULT_CHAT_TEMPLATE
        self.chat_template_kwargs = check_template_kwargs(chat_template, chat_template_kwargs) or None
        super().__init__(with_pil(image_processor), tokenizer, chat_template=chat_template)
        vocabulary = tokenizer.get_vocab()
        input_run = _surround([image_token] * num_visual_tokens, image_start_token, image_end_token)
        output_run = _surround(self.img_tokens, image_output_start_token, image_output_end_token)
        image_tokens = list(dict.fromkeys([*input_run, *output_run]))
        missing = [token for token in image_tokens if token not in vocabulary]
        if missing:
            raise ValueError(f"The tokenizer lacks {missing}; add them with `GillProcessor.extend_tokenizer`.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no `pad_token` to pad batches with; set one.")
        # Tokenizers of Python skip none but these when they decode with `skip_special_tokens`.
        special = [token for token in image_tokens if token not in tokenizer.all_special_tokens]
        if special and not tokenizer.is_fast:
            _add_special_tokens(tokenizer, {"extra_special_tokens": special})
        self.image_token_id: int = vocabulary[image_token]
        self.image_output_token_ids: list[int] = [vocabulary[token] for token in self.img_tokens]
        self.image_input_run_ids: list[int] = [vocabulary[token] for token in input_run]
        self.image_output_run_ids: list[int] = [vocabulary[token] for token in output_run]
        self._image_tokens = image_tokens

    @staticmethod
    def extend_tokenizer(tokenizer: Any, img_tokens: Sequence[str], image_token: str = "<|image|>") -> Any:
        """Add the image tokens to a language model's tokenizer, in the authors' order, and return it."""
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "left"
        _add_special_tokens(tokenizer, {"cls_token": image_token, "extra_special_tokens": list(img_tokens)})
        return tokenizer

    def __call__(  # type: ignore[override]
        self,
        prompt: Any = None,
        *,
        text: str | Iterable[str] | None = None,
        images: Any = None,
        add_img_tokens: bool = False,
        split_image_tokens: bool | None = None,
        allowed_image_sources: Collection[str] | None = None,
        image_limits: ImageLimits | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Make a left-padded batch of prompts.

        Args:
            prompt: One prompt, or several in a list, a column of a dataset or another iterable. A prompt is a string;
                an image (PIL image of any mode, array, tensor, bytes, path or URL); a list of both, where a string
                that is nothing but a URL or the path of an image is that image; or chat messages
                `[{"role": ..., "content": [{"type": "image" | "text", ...}]}]`.
            text (`str` or `list[str]`, *optional*), images (*optional*):
                In place of `prompt`: texts with one placeholder for each image, and the images, in one list or in one
                list for each text. Images alone give `pixel_values` alone.
            add_img_tokens (`bool`, defaults to `False`): End each prompt with the tokens that request an image.
            split_image_tokens (`bool`, *optional*), allowed_image_sources (`Collection[str]`, *optional*),
            image_limits ([`ImageLimits`], *optional*): Those of this call, by default the processor's.
            chat_template_kwargs (`dict[str, Any]`, *optional*): Variables of the chat template, over the processor's.
            kwargs: `padding` (defaults to `True`), `truncation`, `max_length`, `pad_to_multiple_of`, `padding_side`
                (defaults to `"left"`), `add_special_tokens`, `return_attention_mask`, `return_mm_token_type_ids`,
                `return_tensors` (defaults to `"pt"`), and the image processor's own, such as `do_resize`; or the same
                in `text_kwargs` and `images_kwargs`. The tokens that the tokenizer puts before a text (BOS) come once,
                before the first text (before an image too, where a token starts it as a part of the text), and not
                where the text begins with them already; those that it puts after a text
                (EOS) are left out, as the model goes on from there. Truncation takes text only: it is refused where
                it would cut an image.

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask` of shape `(batch_size, sequence_length)`, and where
            there are images `pixel_values` of shape `(num_images, num_channels, height, width)`, in reading order, and
            whatever else the image processor makes, such as `pixel_attention_mask`.

        Raises:
            ValueError: a prompt that is empty, of a wrong type or with an image that cannot be read, naming it, or a
                variable that the chat template does not read.
            TypeError: an unknown keyword argument, with the nearest known one.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None or name == "return_tensors"}
        check_kwargs(kwargs, self.image_processor)
        options = self._merge_kwargs(
            self.valid_processor_kwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs
        )
        sources = self.allowed_image_sources if allowed_image_sources is None else allowed_image_sources
        reader = ImageReader(image_limits or self.image_limits, IMAGE_SOURCES if sources is None else sources)
        if prompt is not None and (text is not None or images is not None):
            raise ValueError("Give either `prompt` or `text` and `images`, not both.")
        variables = check_template_kwargs(self.chat_template, chat_template_kwargs)
        splitter = self._splitter(split_image_tokens, reader.allowed_sources, variables)
        if prompt is None and text is None and images is not None:
            loose = [ImageSource(image, f"Image {number}") for number, image in enumerate(_flatten(images))]
            if not loose:
                raise ValueError("`images` is empty; expected at least one image.")
            return BatchFeature(self._pixel_values(loose, reader, options["images_kwargs"]))
        if text is not None:
            batch = self._split_texts(splitter, text, images)
        else:
            batch = [splitter.split(item, f"Prompt {number}") for number, item in enumerate(list_prompts(prompt))]
        data = self._tokenize(batch, add_img_tokens, options, kwargs)
        pictured = [piece for pieces in batch for piece in pieces if isinstance(piece, ImageSource)]
        if pictured:
            data.update(self._pixel_values(pictured, reader, options["images_kwargs"]))
        return BatchFeature(data, tensor_type=options["text_kwargs"].get("return_tensors"))

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """As [`ProcessorMixin.apply_chat_template`], with checked messages, where typed image tokens are text."""
        messages = getattr(conversation, "messages", conversation)
        if not isinstance(messages, (list, tuple)) or not messages:
            raise ValueError(f"The conversation is {conversation!r:.60}; expected a list of chat messages.")
        chats = [getattr(chat, "messages", chat) for chat in messages]
        single = not isinstance(chats[0], (list, tuple))
        # A text that is not tokenized is for people to read: it is left as they wrote it.
        options = {**kwargs, **(kwargs.get("processor_kwargs") or {})}
        splitter = self._splitter(options.get("split_image_tokens"), IMAGE_SOURCES)
        if not kwargs.get("tokenize", False):
            splitter = splitter._replace(text_tokens=())
        chats = [
            splitter.normalize_chat(chat, f"Prompt {number}")
            for number, chat in enumerate([messages] if single else chats)
        ]
        kwargs = {**self._template_variables(chat_template), **kwargs}
        return super().apply_chat_template(chats[0] if single else chats, chat_template=chat_template, **kwargs)

    def unknown_words(self, prompt: Any) -> list[str]:
        """The words of one prompt that the tokenizer has no token for, each once; none where it knows subwords.

        Args:
            prompt: See [`GillProcessor.__call__`]. Of chat messages, the words that the chat template writes.

        Example:

        ```python
        >>> processor.unknown_words([{"role": "user", "content": "Show me a red zebra"}])
        ['zebra']
        ```
        """
        if self.tokenizer.unk_token_id is None:
            return []
        pieces = self._splitter(None, IMAGE_SOURCES).split(prompt, "The prompt")
        texts = [part for piece in pieces if isinstance(piece, str) for part in piece.split(TEXT_BREAK) if part]
        return list(dict.fromkeys(word for text in texts for word in self._unknown_words_of(text)))

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The tokens of one image, as transformers' processors give them."""
        placeholders = [self.image_token] * self.num_visual_tokens
        return "".join(_surround(placeholders, self.image_start_token, self.image_end_token))

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Sequence[int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        # What vLLM asks a processor for: every image takes the same number of tokens, whatever its size.
        if image_sizes is None:
            return MultiModalData()
        return MultiModalData(
            num_image_tokens=[self.num_visual_tokens] * len(image_sizes), num_image_patches=[1] * len(image_sizes)
        )

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        image_processor = load_image_processor(pretrained_model_name_or_path, **kwargs)
        kwargs.pop("backend", None)
        return [image_processor, AutoTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs)]

    @property
    def model_input_names(self) -> list[str]:
        of_images = getattr(self.image_processor, "model_input_names", ["pixel_values"])
        return ["input_ids", "attention_mask", *of_images]

    def _splitter(
        self, split_image_tokens: bool | None, allowed_sources: Sequence[str], variables: dict[str, Any] | None = None
    ) -> PromptSplitter:
        split = self.split_image_tokens if split_image_tokens is None else split_image_tokens
        text_tokens = self._typed_as_text() if split else (self.image_token,)
        render_chat = partial(self._render_chat, variables=variables or {})
        return PromptSplitter(self.image_token, text_tokens, allowed_sources, render_chat)

    def _typed_as_text(self) -> tuple[str, ...]:
        """Special tokens that are ordinary text where somebody typed them."""
        tokens = self._image_tokens
        if self.image_start_token or self.image_output_start_token:
            tokenizer = self.tokenizer
            of_texts = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token)
            tokens = [*tokens, *(token for token in tokenizer.all_special_tokens if token not in of_texts)]
        return tuple(dict.fromkeys(tokens))

    def _render_chat(self, messages: list[dict[str, Any]], variables: dict[str, Any]) -> str:
        variables = {**self._template_variables(None), **variables}
        render = partial(super().apply_chat_template, tokenize=False, **variables)
        if messages[-1]["role"] == "assistant":
            return render_open_answer(render, messages)
        return render(messages, add_generation_prompt=True)

    def _template_variables(self, chat_template: str | None) -> dict[str, Any]:
        # transformers warns of variables that the template does not use.
        known = {"image_token": self.image_token, **(self.chat_template_kwargs or {})}
        template = chat_template or self.chat_template
        return {name: value for name, value in known.items() if reads_variable(template, name)}

    def _split_texts(self, splitter: PromptSplitter, text: str | Iterable[str], images: Any) -> list[list[Piece]]:
        texts = [text] if isinstance(text, str) else [] if isinstance(text, Mapping) else list(text)
        if not texts or not all(isinstance(item, str) for item in texts):
            raise ValueError(f"`text` must be a string or a list of strings, got {text!r:.60}.")
        # The placeholder is no typed text here: whoever gives `text` and `images` writes it where an image belongs.
        tokens = tuple(token for token in splitter.text_tokens if token != self.image_token)
        splitter = splitter._replace(text_tokens=tokens)
        sources = _list_images(images)
        num_placeholders = [item.count(self.image_token) for item in texts]
        if any(isinstance(source, (list, tuple)) for source in sources):
            if len(sources) != len(texts):
                raise ValueError(f"`images` holds {len(sources)} lists for {len(texts)} texts; expected one each.")
            by_text = [_list_images(text_images) for text_images in sources]
        else:
            if sum(num_placeholders) != len(sources):
                raise ValueError(
                    f"The texts hold {sum(num_placeholders)} placeholders {self.image_token!r} for {len(sources)} "
                    "images; expected one each."
                )
            remaining = iter(sources)
            by_text = [[next(remaining) for _ in range(count)] for count in num_placeholders]
        return [
            splitter.place_images(splitter.escape(item), text_images, f"Text {number}")
            for number, (item, text_images) in enumerate(zip(texts, by_text, strict=True))
        ]

    def _tokenize(
        self, batch: list[list[Piece]], add_img_tokens: bool, options: dict[str, Any], kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        text_kwargs = options["text_kwargs"]
        for name in ("max_length", "pad_to_multiple_of"):
            value = text_kwargs.get(name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        max_length = None
        if text_kwargs.get("truncation") not in (None, False, "do_not_truncate"):
            max_length = text_kwargs.get("max_length") or self.tokenizer.model_max_length
        prefix = self._prefix() if text_kwargs.get("add_special_tokens", True) else []
        sanitize = {"sanitize_control_tokens": True} if text_kwargs.get("sanitize_control_tokens") else {}
        ids = [
            self._encode(pieces, prefix, add_img_tokens, max_length, f"Prompt {number}", sanitize)
            for number, pieces in enumerate(batch)
        ]
        # The tokenizer's own side is a habit of training; prompts to be continued are padded on the left.
        side = kwargs.get("padding_side") or (kwargs.get("text_kwargs") or {}).get("padding_side") or "left"
        data = dict(
            self.tokenizer.pad(
                {"input_ids": ids},
                padding=text_kwargs["padding"],
                max_length=text_kwargs.get("max_length") if text_kwargs["padding"] == "max_length" else None,
                pad_to_multiple_of=text_kwargs.get("pad_to_multiple_of"),
                padding_side=side,
                return_attention_mask=text_kwargs.get("return_attention_mask", True),
            )
        )
        if options.get("return_mm_token_type_ids") or text_kwargs.get("return_mm_token_type_ids"):
            data["mm_token_type_ids"] = self.create_mm_token_type_ids(data["input_ids"])
        return data

    def _pixel_values(
        self, sources: list[ImageSource], reader: ImageReader, images_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """Open and preprocess the images one by one, so that no more than one is in memory at its full size."""
        processed = []
        for source, where in sources:
            try:
                image = reader.read(source)
            except ValueError as error:
                raise type(error)(f"{where}: {error}") from error
            processed.append(preprocess_images(self.image_processor, [image], **images_kwargs))
        return {name: _concatenated([item[name] for item in processed]) for name in processed[0]}


def _surround(tokens: list[str], start: str | None, end: str | None) -> list[str]:
    return [*([start] if start else []), *tokens, *([end] if end else [])]


def _concatenated(values: list[Any]) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        return torch.cat(values)
    if all(isinstance(value, np.ndarray) for value in values):
        return np.concatenate(values)
    return [item for value in values for item in value]


def _add_special_tokens(tokenizer: Any, tokens: dict[str, Any]) -> None:
    tokenizer.add_special_tokens(tokens, replace_extra_special_tokens=False)


def _list_images(images: Any) -> list[Any]:
    """The images of an argument: one, several, or a batch in one array."""
    if images is None:
        return []
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    if isinstance(images, (str, bytes, bytearray, memoryview, dict, np.ndarray, torch.Tensor, Image.Image)):
        return [images]
    return list(images) if isinstance(images, Iterable) and not hasattr(images, "read") else [images]


def _flatten(images: Any) -> Iterator[Any]:
    for image in _list_images(images):
        if isinstance(image, (list, tuple)):
            yield from _flatten(image)
        else:
            yield image


GillProcessor.register_for_auto_class()

__all__ = ["DEFAULT_CHAT_TEMPLATE", "GillProcessor"]
