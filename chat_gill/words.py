"""What is said to people about the words of a model that knows few, and where their words begin another dialogue."""

from collections.abc import Sequence
from typing import Any

# A variable of a chat template that can tell whether a message begins another dialogue: it writes something if so.
_OPENS_DIALOGUE = "opens_dialogue"

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


def current_dialogue(processor: Any, messages: list[Any]) -> list[Any]:
    """The messages from the last one that begins another dialogue, as far as the chat template can tell.

    A template that reads the variable `opens_dialogue` writes nothing for a message that goes on with what was said,
    and something for one that begins anew, such as a second story. Of other templates, all messages are read.

    Args:
        messages (`list[dict]`): Chat messages.
    """
    from modeling_gill.chat_template_gill import reads_variable

    if not reads_variable(processor.chat_template, _OPENS_DIALOGUE):
        return messages
    for number in range(len(messages) - 1, 0, -1):
        message = messages[number]
        if message["role"] == "user" and processor.apply_chat_template([message], **{_OPENS_DIALOGUE: True}).strip():
            return messages[number:]
    return messages


__all__ = ["current_dialogue", "known_words", "remark_on_words"]
