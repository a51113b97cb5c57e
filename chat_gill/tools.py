"""What programs and agents call: typed functions, offered by Gradio as an API and as MCP tools."""

from typing import Any

import gradio as gr
from PIL import Image

from .answer_request import Answer, AnswerImage, AnswerSettings
from .dialogue import open_image
from .engine import AnswerEngine
from .limits import RequestRefused
from .received import only_from_this_page


def add_tools(engine: AnswerEngine) -> None:
    """Offer `answer`, `find_image` and `draw_image` in the page that is being built."""

    def answer(text: str, image: str | None, seed: int | None, request: gr.Request) -> tuple[Any, Any]:
        """Answer a text, and optionally an image, with text and images.

        Args:
            text: What to answer: a question, a request for an image, or a story to go on with.
            image: An image that the text is about.
            seed: Makes drawings repeatable.

        Returns:
            The pieces of the answer in their order, and its first image.
        """
        answered = _answer(engine, text, image, AnswerSettings(show_other=False), seed, request)
        return _described(answered), _first_image(answered)

    def find_image(text: str, request: gr.Request) -> tuple[Any, Any]:
        """Find the existing image that fits a text best.

        Args:
            text: What the image is to show.

        Returns:
            The image, and its caption, origin and similarity to the text.
        """
        answered = _answer(engine, text, None, AnswerSettings(decision="retrieve", force_image=True), None, request)
        return _first_image(answered), _described(answered)

    def draw_image(text: str, steps: int | None, seed: int | None, request: gr.Request) -> tuple[Any, Any]:
        """Draw a new image of a text.

        Args:
            text: What the image is to show.
            steps: Denoising steps; more are slower and often better.
            seed: Makes the drawing repeatable.

        Returns:
            The image, and its similarity to the text.
        """
        settings = AnswerSettings(
            decision="generate", force_image=True, num_inference_steps=None if steps is None else int(steps)
        )
        answered = _answer(engine, text, None, settings, seed, request)
        return _first_image(answered), _described(answered)

    def text(label: str) -> gr.Textbox:
        return gr.Textbox(label=label, max_length=engine.limits.max_characters, visible=False)

    def number(label: str) -> gr.Number:
        return gr.Number(None, label=label, precision=0, visible=False)

    def image(label: str) -> gr.Image:
        component = gr.Image(label=label, type="filepath", format="png", visible=False)
        only_from_this_page(component)
        return component

    def pieces() -> gr.JSON:
        return gr.JSON(label="pieces", visible=False)

    for function, inputs, outputs in (
        (answer, [text("text"), image("image"), number("seed")], [pieces(), image("first image")]),
        (find_image, [text("text")], [image("image"), pieces()]),
        (draw_image, [text("text"), number("steps"), number("seed")], [image("image"), pieces()]),
    ):
        # The engine has a queue of its own; and through Gradio's queue, MCP returns several values as one text.
        gr.Button(visible=False).click(function, inputs, outputs, api_name=function.__name__, queue=False)


def _answer(
    engine: AnswerEngine,
    text: str,
    image: str | None,
    settings: AnswerSettings,
    seed: int | None,
    request: gr.Request,
) -> Answer:
    try:
        if not text.strip() and image is None:
            raise RequestRefused("`text` is empty; expected what to answer or to show.")
        if len(text) > engine.limits.max_characters:
            raise RequestRefused(f"`text` has {len(text)} characters; at most {engine.limits.max_characters} are read.")
        content: list[dict[str, Any]] = []
        if image is not None:
            content.append({"type": "image", "image": open_image(image, engine.limits)})
        content.append({"type": "text", "text": text})
        pipe = engine.pipeline()
        if settings.decision == "retrieve" and pipe.retrieval_set is None:
            raise RequestRefused("This model has no images to find; `draw_image` draws one.")
        if settings.decision == "generate" and not pipe.has_image_generator:
            raise RequestRefused("This model draws no images; `find_image` finds one.")
        # Of MCP comes a request of Starlette's, which has no session.
        return engine.answer(
            [{"role": "user", "content": content}],
            settings,
            visitor=getattr(request, "session_hash", None) or "",
            address=request.client.host if request.client else "",
            seed=None if seed is None else int(seed),
        )
    except (RequestRefused, RuntimeError) as error:
        raise gr.Error(str(error)) from error


def _first_image(answered: Answer) -> Image.Image | None:
    return next((piece.chosen.image for piece in answered.pieces if isinstance(piece, AnswerImage)), None)


def _described(answered: Answer) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = []
    for piece in answered.pieces:
        if isinstance(piece, str):
            described.append({"type": "text", "text": piece.strip()})
            continue
        one = piece.chosen
        facts = {"source": one.source, "score": one.score, "caption": one.caption, "origin": one.origin}
        if one.source == "generated":
            facts["seed"] = answered.seed
        described.append({"type": "image", **{name: value for name, value in facts.items() if value is not None}})
    return described


__all__ = ["add_tools"]
