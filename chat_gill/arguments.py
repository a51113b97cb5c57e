"""Options of `gill chat`. This module imports without torch and gradio, so that a command line shows them quickly."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(kw_only=True)
class ChatArguments:
    """Options of [`~chat_gill.chat`]."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a repository; the picture book by default.", "positional": True},
    )
    language_model: Literal["smollm2"] | None = field(
        default=None,
        metadata={"help": "Talk in plain English with the picture book by this language model."},
    )
    revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch of a Hub repository."})
    retrieval_set: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the images to retrieve; the model's own by default."}
    )
    device: str | None = field(default=None, metadata={"help": "Such as cuda or cpu; a GPU where there is one."})
    dtype: str | None = field(default=None, metadata={"help": "Such as float16; what the repository says by default."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at; 0.0.0.0 lets others in."})
    port: int | None = field(
        default=None, metadata={"help": "Port; the first free one from 7860 by default.", "min": 1}
    )
    open: bool = field(default=False, metadata={"help": "Open the page in a browser."})
    share: bool = field(default=False, metadata={"help": "Make a public link, by Gradio's servers."})
    max_batch_size: int = field(default=8, metadata={"help": "People who are answered at the same time.", "min": 1})
    requests_per_minute: int = field(default=30, metadata={"help": "Messages of one person.", "min": 1})
