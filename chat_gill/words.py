"""What is said to people about the words of a model that knows few."""

from collections.abc import Sequence
from typing import Any

# Above this a list of words helps nobody.
_MOST_LISTED = 400


def known_words(processor: Any) -> list[str]:
    """The words of a tokenizer that knows whole words alone, sorted; none where it knows parts of words."""
    tokenizer = processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    if tokenizer.unk_token_id is None or len(vocabulary) > _MOST_LISTED:
        return []
    return sorted(word for word in vocabulary if word.isalpha())


def remark_on_words(processor: Any, messages: Sequence[Any]) -> tuple[str | None, bool]:
    """What to say about words of the last message that the model does not know.

    Returns:
        `tuple[str | None, bool]`: The remark, if there is something to say, and whether the model can answer.
    """
    last = [message for message in messages[-1:] if message["role"] == "user"]
    unknown = processor.unknown_words(last) if last else []
    if not unknown:
        return None, True
    named = ", ".join(f"“{word}”" for word in unknown[:8]) + (" and others" if len(unknown) > 8 else "")
    known = known_words(processor)
    has_image = any(part["type"] == "image" for part in last[0]["content"])
    read = processor.apply_chat_template(last, add_generation_prompt=True).lower().split()
    understood = {word for word in read if word in known} - {"a", "the", "picture", "and", "is", "are", "it"}
    words = "the word" if len(unknown) == 1 else "the words"
    if understood or has_image or not known:
        return f"I do not know {words} {named}, so I answer the rest.", True
    return f"I do not know {words} {named}. The words that I know are listed below this dialogue.", False


__all__ = ["known_words", "remark_on_words"]
