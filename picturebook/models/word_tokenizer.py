"""Tokenizers with one token for each word."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ..world.documents import vocabulary

PAD, UNKNOWN, NEWLINE = "<pad>", "<unk>", "\n"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def language_model_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the language model. A newline ends a text, as it ends GILL's answers; nothing starts it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer([PAD, UNKNOWN, NEWLINE]),
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=NEWLINE,
        padding_side="left",
    )


def clip_tokenizer(positions: int) -> PreTrainedTokenizerFast:
    """The tokenizer of CLIP and the generator: start and end tokens around a text, truncated to `positions` tokens."""
    tokenizer = _tokenizer([_START, _END, UNKNOWN])
    ends = [(token, tokenizer.token_to_id(token)) for token in (_START, _END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{_START} $A {_END}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_START,
        eos_token=_END,
        pad_token=_END,
        unk_token=UNKNOWN,
        model_max_length=positions,
    )


def _tokenizer(special: Sequence[str]) -> Tokenizer:
    words = {word: number for number, word in enumerate([*special, *vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNKNOWN))
    # As `phrases.words_of`: lower case, but for `Q:` and `A:`.
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(letter + "(?!:)" if letter in "QA" else letter), letter.lower())
            for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\S\n]+"), "removed"),
            pre_tokenizers.Split(Regex(r"Q:|A:|\n|[A-Za-z]+|[^\sA-Za-z]"), "isolated"),
        ]
    )
    return tokenizer
