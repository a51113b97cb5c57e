"""The page: a dialogue in Gradio's chat component, its settings, and the tools that programs call."""

import asyncio
import html
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from .answer_request import Answer, AnswerSettings, Event, Failure, PartialAnswer, Waiting
from .dialogue import dialogue_page, messages_of
from .engine import AnswerEngine
from .figures import figure_html, is_placeholder, note_html, placeholder_html, waiting_html
from .limits import RequestRefused
from .received import only_from_this_page
from .tools import add_tools
from .words import known_words, remark_on_words

STYLE = Path(__file__).with_name("page.css")
_DOWNLOAD = """(page) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([page], {type: "text/html"}));
  link.download = "dialogue.html";
  link.click();
  URL.revokeObjectURL(link.href);
}"""
_NAME_THE_FIELD = """() => {
  document.querySelector("#gill-message textarea").setAttribute("aria-label", "Your message");
}"""
_DECISIONS = [("The model decides", "auto"), ("Always retrieve", "retrieve"), ("Always generate", "generate")]


def build_page(engine: AnswerEngine, name: str, examples: Sequence[str]) -> gr.Blocks:
    """
    Args:
        engine ([`AnswerEngine`]): Answers; may still be loading.
        name (`str`): Of the model, for the title.
        examples (`Sequence[str]`): Messages to begin with.
    """
    limits, conversation = engine.limits, Conversation(engine, name)
    with gr.Blocks(
        title=f"Chat with {name}", fill_height=True, delete_cache=(600, 3600), analytics_enabled=False
    ) as page:
        status = gr.HTML(conversation.header("The model is being loaded. You can type already."), elem_id="gill-header")
        settings = _settings()
        download = gr.Button("Download", size="sm")
        chatbot = gr.Chatbot(
            label="Dialogue",
            buttons=["copy", "copy_all", download],
            height="62vh",
            min_height=320,
            layout="bubble",
            feedback_options=None,
            placeholder="Ask for an image, tell a story sentence by sentence, or add an image and ask about it.\n\n"
            "A dialogue is read as a whole; Clear begins another one.",
        )
        only_from_this_page(chatbot)
        textbox = gr.MultimodalTextbox(
            label="Your message",
            placeholder="Type a message, or add an image",
            file_types=["image"],
            file_count="multiple",
            max_plain_text_length=limits.max_characters,
            submit_btn=True,
            stop_btn=True,
            elem_id="gill-message",
        )
        only_from_this_page(textbox)
        chat = gr.ChatInterface(
            conversation.respond,
            multimodal=True,
            chatbot=chatbot,
            textbox=textbox,
            additional_inputs=settings,
            additional_inputs_accordion=gr.Accordion("Settings", open=False, render=False, elem_id="gill-settings"),
            editable=True,
            examples=[[{"text": text, "files": []}] for text in examples],
            cache_examples=False,
            concurrency_limit=limits.max_waiting,
            show_progress="hidden",
            api_visibility="undocumented",
        )
        chatbot.editable = "user"
        textbox.stop(_without_placeholders, chatbot, chatbot, api_visibility="undocumented", queue=False)
        saved = gr.Textbox(visible="hidden", label="The dialogue as a file")
        download.click(
            lambda history: dialogue_page(history, f"A dialogue with {name}"),
            chatbot,
            saved,
            api_visibility="undocumented",
        ).then(None, saved, None, js=_DOWNLOAD)
        with gr.Accordion("Words that this model knows", open=False, visible=False) as words:
            list_of_words = gr.Markdown()
        page.load(
            conversation.describe,
            None,
            [status, words, list_of_words, settings[0], settings[1]],
            api_visibility="undocumented",
            show_progress="hidden",
            concurrency_limit=None,
        )
        # Gradio's own label of the field is not tied to it.
        page.load(None, None, None, js=_NAME_THE_FIELD, api_visibility="undocumented")
        add_tools(engine)
    page.queue(max_size=4 * limits.max_waiting, default_concurrency_limit=limits.max_waiting)
    page.chat_interface = chat
    return page


def _settings() -> list[gr.components.Component]:
    """In the order of the arguments of [`Conversation.respond`]."""
    return [
        gr.Radio(_DECISIONS, value="auto", label="How images are made", render=False),
        gr.Checkbox(True, label="Also show the image that the model decided against", render=False),
        gr.Slider(0, 4, 1, step=1, label="Images in an answer", info="At most; 0 for text alone.", render=False),
        gr.Slider(1, 4, 1, step=1, label="Candidates for each image", render=False),
        # An empty field becomes 0 in the browser, so 0 is what stands for none.
        gr.Number(0, label="Drawing steps", info="0: as the model's authors set it.", precision=0, render=False),
        gr.Number(0, label="Guidance", info="0: as the authors set it. More follows the text more.", render=False),
        gr.Number(0, label="Seed", info="0: another drawing each time.", precision=0, render=False),
        gr.Slider(0.5, 3, 1, step=0.05, label="Readiness to show images (image_token_scale)", render=False),
    ]


class Conversation:
    """What the page asks of an engine.

    A class, as Gradio finds out by a function's own signature that it wants the request.
    """

    def __init__(self, engine: AnswerEngine, name: str) -> None:
        self.engine, self.name = engine, name

    async def describe(self) -> list[Any]:
        """What the page says of the model once it is loaded."""
        try:
            pipe = await asyncio.to_thread(self.engine.pipeline)
        except RuntimeError as error:
            return [self.header(str(error), "alert"), *[gr.skip()] * 4]
        words = known_words(pipe.processor)
        can_retrieve, can_generate = pipe.retrieval_set is not None, pipe.has_image_generator
        choices = [
            choice for choice, possible in zip(_DECISIONS, (True, can_retrieve, can_generate), strict=True) if possible
        ]
        ways = [way for way, possible in (("retrieves", can_retrieve), ("draws", can_generate)) if possible]
        status = f"Ready. It {' or '.join(ways)} images." if ways else "Ready. It has no images: it answers in words."
        return [
            self.header(status),
            gr.Accordion(visible=bool(words)),
            ", ".join(words),
            gr.Radio(choices=choices),
            gr.Checkbox(visible=can_retrieve and can_generate),
        ]

    def header(self, status: str, role: str = "status") -> str:
        return f'<h1>{html.escape(self.name)}</h1><p role="{role}">{html.escape(status)}</p>'

    async def respond(
        self,
        message: dict[str, Any] | str,
        history: list[Any],
        decision: str,
        show_other: bool,
        max_images: int,
        candidates: int,
        steps: int | None,
        guidance: float | None,
        seed: int | None,
        image_token_scale: float,
        request: gr.Request,
    ) -> AsyncIterator[list[Any]]:
        """Contents of the answer's message, as far as it is there."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        submitted = None

        def report(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            if self.engine.is_loading:
                yield _shown([gr.HTML(waiting_html(Waiting(True, 0)))])
            pipe = await asyncio.to_thread(self.engine.pipeline)
            messages = await asyncio.to_thread(messages_of, history, message, self.engine.limits)
            remark, answerable = remark_on_words(pipe.processor, messages)
            notes = [gr.HTML(note_html(remark))] if remark else []
            if not answerable:
                yield _shown(notes)
                return
            settings = AnswerSettings(
                decision=decision,
                show_other=show_other,
                max_images=max(1, int(max_images)),
                num_images_per_prompt=int(candidates),
                image_token_scale=float(image_token_scale) if max_images else 0.0,
                num_inference_steps=int(steps) if steps else None,
                guidance_scale=guidance or None,
            )
            submitted = self.engine.submit(
                messages,
                settings,
                report=report,
                visitor=request.session_hash or "",
                address=request.client.host if request.client else "",
                seed=int(seed) if seed else None,
            )
            while True:
                event = await events.get()
                while not events.empty():  # what came meanwhile is newer
                    event = events.get_nowait()
                yield _shown([*notes, *_contents(event, settings)])
                if isinstance(event, Answer | Failure):
                    return
        except (RequestRefused, RuntimeError) as error:
            yield _shown([gr.HTML(note_html(str(error)))])
        finally:
            if submitted is not None:
                submitted.stop()


def _shown(contents: list[Any]) -> list[Any]:
    return [{"role": "assistant", "content": contents}]


def _contents(event: Event, settings: AnswerSettings) -> list[Any]:
    """An event as contents of a message."""
    if isinstance(event, Waiting):
        return [gr.HTML(waiting_html(event))]
    if isinstance(event, Failure):
        return [gr.HTML(note_html(event.message))]
    if isinstance(event, PartialAnswer):
        placeholder = placeholder_html(event, settings.decision == "auto" and settings.show_other)
        shown = [gr.HTML(placeholder) if piece is None else piece for piece in event.pieces]
        return shown or [gr.HTML(waiting_html(Waiting(False, 0)))]
    text = " ".join(piece for piece in event.pieces if isinstance(piece, str))
    contents = [
        piece.strip()
        if isinstance(piece, str)
        else gr.HTML(figure_html(piece, text, settings.decision == "auto", event.seed))
        for piece in event.pieces
    ]
    if not contents:
        contents = [gr.HTML(note_html("The model has nothing to say to this. Ask for an image, or ask a question."))]
    return contents


def _without_placeholders(history: list[Mapping[str, Any]]) -> list[Any]:
    """A dialogue whose answer was stopped: nothing in it waits any longer."""
    stopped = []
    for turn in history:
        kept = [
            item
            for item in turn["content"]
            if not (item.get("type") == "component" and is_placeholder(str(item.get("value"))))
        ]
        if len(kept) < len(turn["content"]):
            kept.append(gr.HTML(note_html("Stopped.")))
        stopped.append({**turn, "content": kept})
    return stopped


__all__ = ["STYLE", "Conversation", "build_page"]
