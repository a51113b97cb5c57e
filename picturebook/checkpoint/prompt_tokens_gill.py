"""The tokens of a prompt: texts one by one, placeholders of images, what goes before a text, and truncation."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from transformers.utils import logging

from .prompt_gill import TEXT_BREAK, ImageSource, Piece

logger = logging.get_logger(__name__)


class _Token(NamedTuple):
    """A token of a prompt, and whether it is `"text"`, a `"prefix"` such as BOS, or of an `"image"`."""

    id: int
    kind: str


class PromptTokensMixin:
    """How [`GillProcessor`] tokenizes a prompt that was split into texts and images."""

    tokenizer: Any
    image_start_token: str | None
    image_input_run_ids: list[int]
    image_output_run_ids: list[int]
    _warned_of_unknown_words: bool

    def _prefix(self) -> list[int]:
        """What the tokenizer puts before a text, such as BOS."""
        alone = self.tokenizer("a", add_special_tokens=False).input_ids
        whole = self.tokenizer("a").input_ids
        return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(alone)] == alone), whole)

    def _encode(
        self,
        pieces: list[Piece],
        prefix: list[int],
        add_img_tokens: bool,
        max_length: int | None,
        where: str,
        tokenizer_kwargs: dict[str, Any],
    ) -> list[int]:
        tokens: list[_Token] = []
        for piece in _join_texts(pieces) if self.image_start_token else pieces:
            if isinstance(piece, ImageSource):
                if self.image_start_token:
                    tokens += [_Token(i, "prefix") for i in prefix]
                    prefix = []
                tokens += [_Token(i, "image") for i in self.image_input_run_ids]
                continue
            ids = self._encode_text(piece, tokenizer_kwargs)
            if ids[: len(prefix)] != prefix:  # a chat template may have written it
                tokens += [_Token(i, "prefix") for i in prefix]
            prefix = []
            tokens += [_Token(i, "text") for i in ids]
        ending = self.image_output_run_ids if add_img_tokens else []
        if ending and [token.id for token in tokens[-len(ending) :]] == ending:
            tokens = tokens[: -len(ending)]
        if max_length is not None:
            tokens = self._truncate(tokens, max_length - len(ending), where)
        return [*(token.id for token in tokens), *ending]

    def _encode_text(self, text: str, tokenizer_kwargs: dict[str, Any]) -> list[int]:
        parts = [part for part in text.split(TEXT_BREAK) if part]
        ids = [self.tokenizer(part, add_special_tokens=False, **tokenizer_kwargs).input_ids for part in parts]
        if not self._warned_of_unknown_words and self.tokenizer.unk_token_id is not None:
            for part in (p for p, i in zip(parts, ids, strict=True) if self.tokenizer.unk_token_id in i):
                self._warn_of_unknown_words(part)
        return [i for row in ids for i in row]

    def _unknown_words_of(self, text: str) -> list[str]:
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            spans = zip(encoded.input_ids, encoded.offset_mapping, strict=True)
            words = [text[begin:end] for i, (begin, end) in spans if i == self.tokenizer.unk_token_id]
        else:
            unknown = self.tokenizer.unk_token_id
            words = [w for w in self.tokenizer.tokenize(text) if self.tokenizer.convert_tokens_to_ids(w) == unknown]
        return [word for word in dict.fromkeys(words) if word.strip() and word != self.tokenizer.unk_token]

    def _warn_of_unknown_words(self, text: str) -> None:
        """Name the words of a text that the tokenizer has no token for, in the first text that has some."""
        words = self._unknown_words_of(text)
        if words and not self._warned_of_unknown_words:
            self._warned_of_unknown_words = True
            more = f" and {len(words) - 10} more" if len(words) > 10 else ""
            logger.warning(
                f"The tokenizer does not know {', '.join(map(repr, words[:10]))}{more}, and the model reads "
                f"{self.tokenizer.unk_token} instead. Unknown words of later prompts are not reported."
            )

    def _truncate(self, tokens: list[_Token], max_length: int, where: str) -> list[_Token]:
        excess = len(tokens) - max_length
        if excess <= 0:
            return tokens
        places = [place for place, token in enumerate(tokens) if token.kind != "prefix"]
        if self.tokenizer.truncation_side != "left":
            places.reverse()
        cut = set(places[:excess])
        if excess > len(places) or any(tokens[place].kind == "image" for place in cut):
            raise ValueError(
                f"{where}: truncation to `max_length` would cut an image or special tokens, and only text can be cut; "
                f"it has {excess} tokens too many. Raise `max_length`, or give fewer images."
            )
        return [token for place, token in enumerate(tokens) if place not in cut]


def _join_texts(pieces: Iterable[Piece]) -> list[Piece]:
    """Put texts that follow one another together. GILL tokenizes them one by one; where a token starts an image, prompt
    and images are one text."""
    joined: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


__all__ = ["PromptTokensMixin"]
