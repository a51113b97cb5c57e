"""Makes a fast tokenizer of a SentencePiece model with added tokens, that encodes as LLaMA's own of that time does.

A text is cut at the added tokens. Each piece between them gets one space in front, always, and all spaces become the
character U+2581; then come the merges. `LlamaTokenizer` of transformers 5 reads such files, but encodes pieces that
begin with a space otherwise (transformers issues 24569, 29872), so the rule is stored in a tokenizer of no family.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from .original_files import ConversionError
from .sentencepiece_model import SentencePieceModel

_SPACE = "\u2581"


def make_llama_tokenizer(
    model: SentencePieceModel, added_tokens: Mapping[str, int], special_tokens: Mapping[str, str], **options: Any
) -> PreTrainedTokenizerFast:
    """
    Make the tokenizer.

    Args:
        model ([`SentencePieceModel`]): Its pieces.
        added_tokens (`Mapping[str, int]`): Further tokens, none of which is ordinary text where it is typed, and their
            ids. There may be gaps between the ids.
        special_tokens (`Mapping[str, str]`): `bos_token`, `eos_token`, `unk_token` and `pad_token`.
        options: Those of [`PreTrainedTokenizerFast`].

    Returns:
        [`PreTrainedTokenizerFast`]: Puts `bos_token` in front of a text, and nothing after it.

    Raises:
        ConversionError: an added token with the id of another piece, or a special token that the model lacks.
    """
    vocabulary = dict(model.vocabulary)
    owners = {i: piece for piece, i in vocabulary.items()}
    for token, i in added_tokens.items():
        if owners.setdefault(i, token) != token or vocabulary.setdefault(token, i) != i:
            raise ConversionError(
                f"The added token {token!r} has the id {i}, but the tokenizer's piece {owners[i]!r} has the id "
                f"{vocabulary[owners[i]]}"
            )
    missing = [token for token in special_tokens.values() if token not in vocabulary]
    if missing:
        raise ConversionError(f"The tokenizer lacks the special tokens {missing}")
    tokenizer = Tokenizer(
        BPE(vocab=vocabulary, merges=model.merges, unk_token=model.unknown, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bos = special_tokens["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
    )
    # In the order of their ids, which they have in the vocabulary already.
    special = sorted({model.unknown, *model.controls, *added_tokens}, key=lambda token: vocabulary[token])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    extra = [token for token in special if token not in special_tokens.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special_tokens,
        extra_special_tokens=extra,
        clean_up_tokenization_spaces=False,
        **options,
    )


__all__ = ["make_llama_tokenizer"]
