"""Records to tokens, labels and images: what a model that writes and draws in turn is trained on."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modeling_gill import GillProcessor
from modeling_gill.image_loading_gill import ImageError
from modeling_gill.prompt_gill import check_text

from .collator import UnreadableExample
from .records import (
    IMAGE_MARKER,
    MARKERS,
    ConversationRecord,
    Direction,
    DocumentRecord,
    PairRecord,
    Record,
    RecordImage,
)

IGNORED = -100
# More would take a tokenizer minutes, to be cut off afterwards.
_MAX_CHARACTERS = 1_000_000
_MAX_DROPPED = 100
# From an image, whether it is read and whether it is drawn, to what stands for it in `EncodedRecord`.
OpenImage = Callable[[RecordImage, bool, bool], Any]


@dataclass
class EncodedRecord:
    """
    A record as a model is trained on it.

    Attributes:
        input_ids (`list[int]`): Without padding.
        labels (`list[int]`): The same ids where they are predicted, -100 elsewhere.
        images_read (`list`): What `open_image` gave for those that the image encoder reads, in the order of their
            placeholders.
        images_drawn (`list`): The same for those that the image generator is to draw, in the order of their runs.
        dropped (`list[str]`): Which images of a document could not be read; their tokens are not there either.
    """

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    images_read: list[Any] = field(default_factory=list)
    images_drawn: list[Any] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add(self, ids: list[int], labels: list[int] | bool) -> None:
        """Append tokens with their labels, or with `True` for all and `False` for none."""
        self.input_ids += ids
        self.labels += labels if isinstance(labels, list) else ids if labels else [IGNORED] * len(ids)


class RecordEncoder:
    """
    Tokens and labels of the records of [`records`][training_gill.records], as DreamLLM's authors make them.

    An image that is read is its start token, `num_visual_tokens` placeholders and its end token. One that is drawn is
    its start token, the run of `image_output_token_ids` and its end token. The tokens around are those of the
    processor, if it has any. In GILL, nothing is around, and the run is opened by its own first token.

    | record | tokens | predicted |
    |---|---|---|
    | pair, text to image | BOS, caption, image drawn, EOS | nothing |
    | pair, image to text | BOS, image read, caption, EOS | caption, EOS |
    | document | BOS, for each group of sentences: text, image drawn, the same image read; EOS | text, the token that opens a drawn image, EOS |
    | instructed document | the chat template up to the answer, then as a document | the same, after the instruction |
    | conversation | the chat template with its images | answers; nothing of an image |

    A record that is longer than `max_length` is cut: the caption of a pair at its end; a document before the first
    text or image (drawn and read together) that does not fit with BOS and EOS; a conversation at `max_length`, or
    before the image that crosses it. An image is never cut. The first token of pairs and documents has a label, which
    no loss uses.

    Args:
        processor ([`GillProcessor`]): Of the model that is trained. Conversations need a tokenizer of `tokenizers`,
            and the processor's chat template.
        max_length (`int`): Tokens of a record.

    Raises:
        ValueError: a tokenizer without EOS, or a `max_length` that leaves no room beside an image.

    Example:

        >>> from PIL import Image
        >>> from modeling_gill import GillProcessor
        >>> from training_gill.record_encoding import RecordEncoder
        >>> from training_gill.records import PairRecord, RecordImage

        >>> encoder = RecordEncoder(GillProcessor.from_pretrained("picturebook/checkpoint"), max_length=64)
        >>> pair = PairRecord(RecordImage(Image.new("RGB", (8, 8)), "red.png"), "a red circle")
        >>> encoded = encoder.encode(pair, "text_to_image", lambda image, reads, draws: image.source)
        >>> len(encoded.images_drawn), len(encoded.images_read)
        (1, 0)
    """  # noqa: E501

    def __init__(self, processor: GillProcessor, max_length: int) -> None:
        tokenizer = processor.tokenizer
        if tokenizer.eos_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no EOS token, which ends a record.")
        self.processor, self.tokenizer, self.max_length = processor, tokenizer, max_length
        self.eos: list[int] = [tokenizer.eos_token_id]
        self.bos: list[int] = self._prefix()
        self.image_read: list[int] = processor.image_input_run_ids
        self.image_drawn: list[int] = processor.image_output_run_ids
        # Only the token that opens an image is ever written by the model itself.
        self._opening = [self.image_drawn[0], *[IGNORED] * (len(self.image_drawn) - 1)]
        least = len(self.bos) + len(self.image_drawn) + len(self.image_read) + 2
        if max_length < least:
            raise ValueError(
                f"`max_length` is {max_length}; expected at least {least}, for an image drawn of "
                f"{len(self.image_drawn)} tokens, the same read of {len(self.image_read)}, and a text."
            )
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= {*tokenizer.all_special_tokens, processor.image_token, *processor.img_tokens}
        self._special = re.compile("|".join(re.escape(token) for token in sorted(special, key=len, reverse=True)))

    def encode(self, record: Record, direction: Direction, open_image: OpenImage) -> EncodedRecord:
        """
        Args:
            record: A record.
            direction (`str`): Of a pair, `"text_to_image"` or `"image_to_text"`. Images of documents and those marked
                `<dream>` are drawn and read (`"both"`), drawn only (`"text_to_image"`) or read only
                (`"image_to_text"`).
            open_image: Called once for each image that fits, with the [`RecordImage`], whether it is read and whether
                it is drawn. Raises `ImageError` for one that cannot be read.

        Raises:
            UnreadableExample: nothing can be learnt from it: no text, a special token in a text, an image that cannot
                be read of a pair or a conversation, or a `max_length` that nothing fits into.
        """
        if isinstance(record, PairRecord):
            return self._pair(record, direction, open_image)
        if isinstance(record, DocumentRecord):
            return self._document(record, direction, open_image)
        return self._conversation(record, direction, open_image)

    # --- kinds -------------------------------------------------------------------------------------------------------

    def _pair(self, record: PairRecord, direction: Direction, open_image: OpenImage) -> EncodedRecord:
        if not record.caption.strip():
            raise UnreadableExample(f"the caption is {record.caption!r:.60}; expected text")
        draws = direction == "text_to_image"
        image = self._opened(record.image, open_image, not draws, draws)
        placed = self.image_drawn if draws else self.image_read
        room = self.max_length - len(self.bos) - len(placed) - len(self.eos)
        caption = self._text_ids(record.caption)[:room]
        encoded = EncodedRecord()
        if draws:
            encoded.add(self.bos + caption + placed + self.eos, False)
            encoded.images_drawn.append(image)
        else:
            encoded.add(self.bos, True)
            encoded.add(placed, False)
            encoded.add(caption + self.eos, True)
            encoded.images_read.append(image)
        return encoded

    def _document(self, record: DocumentRecord, direction: Direction, open_image: OpenImage) -> EncodedRecord:
        if record.instruction is None:
            begin, is_predicted = self.bos, True
        else:
            self._check_text(record.instruction)
            instruction = self._render([{"role": "user", "content": record.instruction}], True)
            begin, is_predicted = self._with_bos(self._ids(instruction)), False
        texts = [text.strip() for text in record.texts]
        # Of instructed documents, the authors count BOS twice.
        room = self.max_length - len(self.eos) - (0 if is_predicted else len(self.bos))
        place, place_labels = self._placed(direction)
        reads, draws = direction != "text_to_image", direction != "image_to_text"
        encoded = EncodedRecord()
        encoded.add(begin, is_predicted)
        first = 0
        for image in sorted(record.images, key=lambda image: image.matched_text_index):
            ids = self._text_ids(" ".join(texts[first : image.matched_text_index + 1]))
            length = len(encoded.input_ids) + len(ids)
            if length + len(place) > room:
                encoded.add(ids if length <= room else [], True)
                break
            try:
                opened = open_image(image.image, reads, draws)
            except ImageError as error:
                # As if the document did not have it: its sentences precede the next one.
                encoded.dropped.append(f"{image.image.name}: {error}")
                if len(encoded.dropped) > _MAX_DROPPED:
                    raise UnreadableExample(
                        f"more than {_MAX_DROPPED} of its images cannot be read; {error}"
                    ) from error
                continue
            encoded.add(ids, True)
            encoded.add(place, place_labels)
            encoded.images_read += [opened] * reads
            encoded.images_drawn += [opened] * draws
            first = image.matched_text_index + 1
        else:
            ids = self._text_ids(" ".join(texts[first:]))
            encoded.add(ids if len(encoded.input_ids) + len(ids) <= room else [], True)
        if len(encoded.input_ids) == len(begin):
            raise UnreadableExample(
                "; ".join([*encoded.dropped, f"nothing of it fits into `max_length` {self.max_length}"])
            )
        encoded.add(self.eos, True)
        return encoded

    def _conversation(self, record: ConversationRecord, direction: Direction, open_image: OpenImage) -> EncodedRecord:
        messages = []
        for turn in record.turns:
            parts = MARKERS.split(turn.text)
            for text in parts[::2]:
                self._check_text(text)
            # One token stands for each image while the dialogue is tokenized, as one string.
            parts[1::2] = [
                self.processor.image_token if marker == IMAGE_MARKER else self.processor.img_tokens[0]
                for marker in parts[1::2]
            ]
            messages.append({"role": turn.role, "content": "".join(parts)})
        text, answers = self._dialogue(messages)
        if len(text) > _MAX_CHARACTERS:
            raise UnreadableExample(f"it has {len(text):,} characters; expected at most {_MAX_CHARACTERS:,}")
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} gives no offsets, which labels of conversations need.")
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, begins = tokens.input_ids, [begin for begin, _ in tokens.offset_mapping]
        added = self._with_bos(ids)
        ids, begins = added, [-1] * (len(added) - len(ids)) + begins
        dreams, _ = self._placed(direction)
        marked = record.marked_images()
        encoded = EncodedRecord()
        number = 0
        for token, begin in zip(ids, begins, strict=True):
            is_read = token == self.processor.image_token_id
            is_drawn = token == self.processor.image_output_token_ids[0]
            if not (is_read or is_drawn):
                if len(encoded.input_ids) == self.max_length:
                    break
                encoded.add([token], any(first <= begin < end for first, end in answers))
                continue
            place = self.image_read if is_read else dreams
            if len(encoded.input_ids) + len(place) > self.max_length:
                break
            encoded.add(place, False)
            reads = is_read or direction != "text_to_image"
            draws = is_drawn and direction != "image_to_text"
            image = self._opened(marked[number][1], open_image, reads, draws)
            number += 1
            encoded.images_read += [image] * reads
            encoded.images_drawn += [image] * draws
        return encoded

    def _dialogue(self, messages: list[dict[str, str]]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a dialogue, and where its answers begin and end.

        Raises:
            ValueError: a chat template that writes the beginning of a dialogue otherwise once it goes on.
        """
        text = self._render(messages, False)
        answers = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:number], True)
            whole = self._render(messages[: number + 1], False)
            if not text.startswith(before) or not text.startswith(whole) or not whole.startswith(before):
                raise ValueError(
                    "The chat template of the processor does not write a dialogue as the beginning of a longer one, so "
                    "that its answers cannot be found; expected a template that only appends."
                )
            answers.append((len(before), len(whole)))
        return text, answers

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _placed(self, direction: Direction) -> tuple[list[int], list[int]]:
        """Tokens of an image of a document, and their labels."""
        read = [IGNORED] * len(self.image_read)
        if direction == "text_to_image":
            return self.image_drawn, self._opening
        if direction == "image_to_text":
            return self.image_read, read
        return self.image_drawn + self.image_read, self._opening + read

    def _text_ids(self, text: str) -> list[int]:
        self._check_text(text)
        return self._ids(text) if text else []

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _check_text(self, text: str) -> None:
        if len(text) > _MAX_CHARACTERS:
            raise UnreadableExample(f"a text has {len(text):,} characters; expected at most {_MAX_CHARACTERS:,}")
        try:
            check_text(text, "a text")
        except ValueError as error:
            raise UnreadableExample(str(error)) from error
        if found := self._special.search(text):
            raise UnreadableExample(
                f"a text holds {found[0]!r}, which the tokenizer takes for a special token: "
                f"{text[max(0, found.start() - 20) : found.end() + 20]!r}"
            )

    def _with_bos(self, ids: list[int]) -> list[int]:
        # A chat template may have written it.
        return ids if ids[: len(self.bos)] == self.bos else self.bos + ids

    def _render(self, messages: list[dict[str, str]], answer_follows: bool) -> str:
        try:
            return self.processor.apply_chat_template(messages, add_generation_prompt=answer_follows, tokenize=False)
        except Exception as error:  # templates are programs of their own
            raise UnreadableExample(f"the chat template does not take the dialogue ({error})") from error

    def _opened(self, image: RecordImage, open_image: OpenImage, reads: bool, draws: bool) -> Any:
        try:
            return open_image(image, reads, draws)
        except ImageError as error:
            raise UnreadableExample(f"{image.name}: {error}") from error

    def _prefix(self) -> list[int]:
        """What the tokenizer puts before a text, such as BOS."""
        alone, whole = (self.tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
        return next((whole[:at] for at in range(len(whole)) if whole[at : at + len(alone)] == alone), [])


__all__ = ["IGNORED", "EncodedRecord", "OpenImage", "RecordEncoder"]
