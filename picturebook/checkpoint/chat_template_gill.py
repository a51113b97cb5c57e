"""The chat template of a GILL: that of the language model where it has one, which then takes images too."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

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

# Put before a template that takes texts: the parts of a message become one text, an image its placeholder.
_JOINED_PARTS = (
    "{%- set gill = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message.content is defined and message.content is iterable and message.content is not string -%}"
    "{%- set joined = namespace(text='') -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{%- set joined.text = joined.text ~ part.text -%}"
    "{%- elif part.type.startswith('image') -%}"
    "{%- set joined.text = joined.text ~ (image_token or '<|image|>') -%}"
    "{%- endif -%}{%- endfor -%}"
    "{%- set message = dict(message, content=CONTENT) -%}"
    "{%- set gill.messages = gill.messages + [message] -%}"
    "{%- else -%}{%- set gill.messages = gill.messages + [message] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = gill.messages -%}"
)
# As it is; before a template that takes strings; before one that takes parts of text only.
_PREAMBLES = (
    "",
    _JOINED_PARTS.replace("CONTENT", "joined.text"),
    _JOINED_PARTS.replace("CONTENT", "[{'type': 'text', 'text': joined.text}]"),
)


# A noncharacter of Unicode, which no text holds.
_END_MARK = "\ufdd1"

# What a processor gives a template itself.
_SET_BY_PROCESSOR = ("messages", "add_generation_prompt", "image_token")


def check_template_kwargs(template: Any, kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """
    Variables of a chat template, such as Qwen3's `enable_thinking`, which Jinja would ignore if they were misspelt.

    Args:
        template (`str`, or a `dict` of templates by name).
        kwargs (`Mapping[str, Any]`, *optional*): The variables by name.

    Raises:
        ValueError: something else than a dict, or a variable that the template does not read, naming it.

    Example:

    ```python
    >>> from modeling_gill.chat_template_gill import check_template_kwargs

    >>> check_template_kwargs("{% if enable_thinking %}<think>{% endif %}", {"enable_thinking": False})
    {'enable_thinking': False}
    ```
    """
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping):
        raise ValueError(f"`chat_template_kwargs` is {kwargs!r:.60}; expected a dict of the chat template's variables.")
    for name in kwargs:
        if name in _SET_BY_PROCESSOR:
            raise ValueError(f"`chat_template_kwargs` has {name!r}, which the processor sets; leave it out.")
        if not reads_variable(template, name):
            raise ValueError(
                f"`chat_template_kwargs` has {name!r}, which the chat template does not read; expected variables of "
                "the template, such as `enable_thinking` of Qwen3's."
            )
    return dict(kwargs)


def reads_variable(template: Any, name: Any) -> bool:
    """Whether a chat template, or one of several by name, has a word like this."""
    return isinstance(name, str) and re.search(rf"\b{re.escape(name)}\b", str(template)) is not None


def own_chat_template(tokenizer: Any, image_token: str) -> str | None:
    """
    The chat template of a language model's tokenizer, made to take messages with images.

    Most templates take the content of a message as a string, and fail on a list of parts or leave it out. Before such a
    one, a few lines of Jinja join the parts to a string with a placeholder where an image stands. Which of both a
    template needs is found by rendering messages with it.

    Args:
        tokenizer: Of the language model.
        image_token (`str`): The placeholder of an input image.

    Returns:
        `str`, *optional*: `None` for a tokenizer without a template, or with one that cannot be rendered with an image,
        which is logged.

    Example:

    ```python
    >>> from transformers import AutoTokenizer

    >>> tokenizer = AutoTokenizer.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")  # doctest: +SKIP
    >>> template = own_chat_template(tokenizer, "<|image|>")  # doctest: +SKIP
    ```
    """
    try:
        template = tokenizer.get_chat_template() if getattr(tokenizer, "chat_template", None) else None
    except ValueError:  # several by name, and none of them the default
        template = None
    if template is None or template == DEFAULT_CHAT_TEMPLATE:
        return None
    for preamble in _PREAMBLES:
        if _takes_images(tokenizer, preamble + template, image_token):
            return preamble + template
    logger.warning(
        "The language model's chat template cannot be rendered with a message of texts and an image; chat messages are "
        "formatted as `Q: ...` and `A:` instead. Give `chat_template` to use another."
    )
    return None


def render_open_answer(render: Callable[[list[dict[str, Any]]], str], messages: Sequence[Mapping[str, Any]]) -> str:
    """
    Chat messages whose last one is the beginning of an answer, up to where the answer goes on.

    Templates end a message with tokens that end the answer, and a model would write the next speaker's part after
    them. transformers' `continue_final_message` leaves them out too, but takes no message that ends with an image.

    Args:
        render (`Callable`): Turns messages into a text.
        messages: Checked messages.

    Example:

    ```python
    >>> from modeling_gill.chat_template_gill import render_open_answer

    >>> render_open_answer(lambda messages: f"<bot>{messages[-1]['content']}<end>", [{"content": "It is"}])
    '<bot>It is'
    ```
    """
    *before, last = messages
    content = last["content"]
    marked = content + _END_MARK if isinstance(content, str) else [*content, {"type": "text", "text": _END_MARK}]
    closed = render([dict(message) for message in messages])
    opened, mark, _ = render([*map(dict, before), {**last, "content": marked}]).rpartition(_END_MARK)
    # Some templates trim their messages, and others leave unknown characters out.
    return next((text for text in (opened, opened.rstrip()) if mark and closed.startswith(text)), closed)


def _takes_images(tokenizer: Any, template: str, image_token: str) -> bool:
    """Whether a template writes the texts of a message and a placeholder where its image stands."""
    parts = [{"type": "text", "text": "first"}, {"type": "image"}, {"type": "text", "text": "second"}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    others = [
        [{"role": "user", "content": "first"}],
        [*messages, {"role": "assistant", "content": "third"}, {"role": "user", "content": "fourth"}],
    ]
    options: dict[str, Any] = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
    if "image_token" in template:
        options["image_token"] = image_token
    try:
        rendered = tokenizer.apply_chat_template(messages, **options)
        text, dialogue = (tokenizer.apply_chat_template(other, **options) for other in others)
    except Exception:  # templates are programs of their own
        return False
    before, *after = rendered.split(image_token)
    return (
        len(after) == 1
        and before.endswith("first")
        and after[0].startswith("second")
        and "first" in text
        and all(word in dialogue for word in ("first", "second", "third", "fourth"))
    )


__all__ = [
    "DEFAULT_CHAT_TEMPLATE",
    "check_template_kwargs",
    "own_chat_template",
    "reads_variable",
    "render_open_answer",
]
