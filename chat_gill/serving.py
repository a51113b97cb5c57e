"""The command `gill chat`: load a model and serve the page."""

import gc
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gill.imports import how_to_install

from .arguments import ChatArguments

if TYPE_CHECKING:
    import gradio as gr

    from .engine import AnswerEngine

EXAMPLES_FILE = "chat_examples.json"
_EXAMPLES = ("Show me a red house by the sea", "A cat sits on a chair. Then it jumps.", "Can you draw a boat at night?")


def chat(arguments: ChatArguments) -> None:
    """
    Serve the chat page until it is interrupted.

    Raises:
        ImportError: Gradio is not installed; the message says how to install it.
        FileNotFoundError: no model was named and the picture book is not installed.
        OSError: the port that was asked for is taken, or not one of this machine.
    """
    # Before the model is loaded.
    if find_spec("gradio") is None:
        raise ModuleNotFoundError(how_to_install("gradio"), name="gradio")
    _check_port(arguments)
    start = time.monotonic()
    model = find_model(arguments.model, arguments.language_model)
    print(f"Loading {model} ...", flush=True)
    # Two imports at once take as long as one after the other, so the page comes first, and says that the model loads.
    is_served = threading.Event()
    gc.disable()  # looking through all that was imported again and again takes a fifth of importing
    engine = start_engine(
        model,
        arguments,
        lambda: print(f"Loaded in {time.monotonic() - start:.0f} s.", flush=True),
        is_served=is_served,
    )
    try:
        page = open_page(engine, model, arguments)
        is_served.set()
        page.block_thread()
    finally:
        is_served.set()
        engine.close()
        gc.enable()


def _check_port(arguments: ChatArguments) -> None:
    # Gradio reads the variable where no port is given.
    port = arguments.port or int(os.environ.get("GRADIO_SERVER_PORT") or 0)
    if not port:
        return
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Gradio: a page that was closed just now
        try:
            free.bind((arguments.host, port))
        except (OSError, OverflowError) as error:
            raise OSError(
                f"`port` is {port}, which the page cannot have at {arguments.host}: {error}; expected a free one, or "
                "none for the first free one from 7860."
            ) from error


def serve_space(model: str, gpu: Callable[..., Any] | None = None) -> None:
    """Serve the page in a Space of the Hub.

    Args:
        model (`str`): Hub id, or a folder.
        gpu (`Callable`, *optional*): `spaces.GPU(...)` on ZeroGPU.
    """
    # The Hub's machine sets address and port by variables that Gradio reads.
    arguments = ChatArguments(host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"))
    engine = start_engine(model, arguments, gpu=gpu)
    try:
        open_page(engine, model, arguments).block_thread()
    finally:
        engine.close()


def find_model(model: str | None, language_model: str | None = None) -> str:
    """The model that was named, or the picture book, or its adapters for another language model.

    Raises:
        FileNotFoundError: none was named and the picture book is not installed.
        ValueError: both a model and a language model were named.
    """
    if model is not None:
        if language_model is not None:
            raise ValueError(
                f"`language_model` {language_model!r} is for the picture book; expected no other model, got {model!r}."
            )
        return model
    from picturebook.checkpoint_folder import find_checkpoint, find_smollm2_adapters

    if language_model is not None:
        return str(find_smollm2_adapters())
    return str(find_checkpoint())


def start_engine(
    model: str,
    arguments: ChatArguments,
    loaded: Callable[[], Any] = lambda: None,
    gpu: Callable[..., Any] | None = None,
    is_served: threading.Event | None = None,
) -> "AnswerEngine":
    """An engine that loads a model in its own thread.

    Args:
        model (`str`): Folder or Hub id.
        loaded (`Callable`): Called when it is loaded.
        gpu (`Callable`, *optional*): See [`AnswerEngine`].
        is_served (`threading.Event`, *optional*): What loading waits for.
    """
    from .engine import AnswerEngine
    from .limits import ChatLimits

    def load() -> Any:
        if is_served is not None:
            is_served.wait()
        try:
            pipe = load_pipeline(model, arguments)
        finally:
            gc.enable()
        loaded()
        return pipe

    limits = ChatLimits(max_batch_size=arguments.max_batch_size, requests_per_minute=arguments.requests_per_minute)
    return AnswerEngine(load, limits, gpu)


def load_pipeline(model: str, arguments: ChatArguments) -> Any:
    """The pipeline of a folder or Hub repository, on the device that was asked for."""
    import torch

    from pipeline_gill import GillPipeline

    options: dict[str, Any] = {}
    if arguments.revision is not None:
        options["revision"] = arguments.revision
    if arguments.dtype is not None:
        dtype = getattr(torch, arguments.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"`dtype` is {arguments.dtype!r}; expected float32, float16 or bfloat16.")
        options["dtype"] = dtype
    if arguments.language_model is not None:
        from picturebook.models.smollm2 import load_smollm2_pipeline

        pipe = load_smollm2_pipeline(adapters=model)
    else:
        pipe = GillPipeline.from_pretrained(model, **options)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if arguments.retrieval_set is not None:
        pipe.load_retrieval_set(arguments.retrieval_set)
    return pipe


def open_page(engine: "AnswerEngine", model: str, arguments: ChatArguments, **launching: Any) -> "gr.Blocks":
    """Serve the page in a thread, with the API and the MCP tools.

    Args:
        launching: Other arguments of Gradio's `launch`.
    """
    from .page import STYLE, build_page

    page = build_page(engine, name_of(model), examples_of(model))
    page.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        inbrowser=arguments.open,
        share=arguments.share,
        mcp_server=True,
        prevent_thread_lock=True,
        max_file_size=engine.limits.max_image_bytes,
        max_threads=engine.limits.max_waiting,
        show_error=True,
        quiet=True,
        ssr_mode=False,
        footer_links=["api", "gradio"],
        css_paths=STYLE,
        theme=_theme(),
        **launching,
    )
    return page


def _theme() -> "gr.themes.ThemeClass":
    """Gradio's own, with a contrast of 4.5 in its small grey texts too."""
    import gradio as gr

    grey = {"body_text_color_subdued": "*neutral_600", "body_text_color_subdued_dark": "*neutral_300"}
    return gr.themes.Default(primary_hue="orange", neutral_hue="stone").set(
        **grey, block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    )


def name_of(model: str) -> str:
    """What to call a model."""
    folder = Path(model)
    if folder.is_dir():
        return (
            "the picture book" if folder.resolve().parent.name in ("picturebook", "gill_picturebook") else folder.name
        )
    return model


def examples_of(model: str) -> list[str]:
    """Messages to begin with: those of the repository's `chat_examples.json`, or general ones."""
    path = Path(model, EXAMPLES_FILE)
    if not path.is_file() and not Path(model).exists():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(model, EXAMPLES_FILE))
        except Exception:  # not there, or no network: whatever is wrong, the page has other examples
            return list(_EXAMPLES)
    if not path.is_file():
        return list(_EXAMPLES)
    examples = json.loads(path.read_text(encoding="utf-8"))
    return [text for text in examples if isinstance(text, str)] or list(_EXAMPLES)


__all__ = ["chat", "examples_of", "find_model", "load_pipeline", "name_of", "open_page", "serve_space", "start_engine"]
