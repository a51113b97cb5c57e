"""A dialogue that was shown becomes what the model reads, and a file to keep."""

from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.components.chatbot import ChatbotDataMessages
from PIL import Image

from chat_gill import ChatLimits
from chat_gill.answer_request import AnswerImage, PartialAnswer
from chat_gill.dialogue import dialogue_page, messages_of
from chat_gill.figures import figure_html, note_html, placeholder_html
from chat_gill.limits import RequestRefused
from chat_gill.received import refuse_foreign
from chat_gill.words import remark_on_words
from pipeline_gill import GillImage

RED, BLUE = (Image.new("RGB", (32, 32), colour) for colour in ("red", "blue"))


def drawn(**changes: Any) -> GillImage:
    probabilities = {"generate": 0.9, "retrieve": 0.1}
    return GillImage(
        **{
            "image": RED,
            "source": "generated",
            "decision": "generate",
            "decision_probabilities": probabilities,
            "score": 3,
        }
        | changes
    )


FOUND = GillImage(BLUE, "retrieved", "generate", {"generate": 0.9, "retrieve": 0.1}, 2.5, "cats/<1>.png", "a <cat>")


def shown(html: str) -> dict[str, Any]:
    return {"type": "component", "component": "html", "value": html}


def test_the_history_holds_the_texts_and_the_images_that_were_shown_and_no_notes() -> None:
    figure = figure_html(AnswerImage(drawn(), FOUND), "a cat", True, 5)
    history = [
        {"role": "user", "content": [{"type": "text", "text": "Show me a cat"}]},
        {
            "role": "assistant",
            "content": [shown(note_html("I do not know x")), {"type": "text", "text": "a cat"}, shown(figure)],
        },
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": [shown(placeholder_html(PartialAnswer((None,), 1, 2)))]},
    ]
    messages = messages_of(history, {"text": "Then it turns blue.", "files": []}, ChatLimits())
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    text, image = messages[1]["content"]
    assert text["text"] == "a cat" and image["image"].tobytes() == RED.tobytes()
    assert [part["text"] for part in messages[2]["content"]] == ["again", "Then it turns blue."]


def test_an_edited_message_keeps_the_image_that_came_with_it(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    history = [{"role": "user", "content": [{"type": "file", "file": {"path": str(tmp_path / "red.png")}}]}]
    [message] = messages_of(history, "what is it?", ChatLimits())
    assert [part["type"] for part in message["content"]] == ["image", "text"]


def test_uploads_are_read_and_made_small(tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1000), "green").save(tmp_path / "large.png")
    [message] = messages_of([], {"text": "", "files": [str(tmp_path / "large.png")]}, ChatLimits(image_size=512))
    assert message["content"][0]["image"].size == (512, 171)


def test_what_cannot_be_read_is_said_kindly(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    limits = ChatLimits(max_characters=10)
    for message, expected in (
        ({"text": " ", "files": []}, "Type something"),
        ({"text": "a" * 11, "files": []}, "11 characters; at most 10"),
        ({"text": "", "files": [str(tmp_path / "text.png")]}, "could not be read as an image"),
        ({"text": "", "files": ["x"] * 9}, "9 images; at most 4"),
    ):
        with pytest.raises(RequestRefused, match=expected):
            messages_of([], message, limits)


def test_only_the_end_of_a_long_dialogue_is_read() -> None:
    history = [{"role": role, "content": str(number)} for number in range(50) for role in ("user", "assistant")]
    messages = messages_of(history, {"text": "last", "files": []}, ChatLimits(max_messages=5))
    assert len(messages) == 5 and messages[-1]["content"][0]["text"] == "last"


def test_a_figure_says_how_sure_the_choice_was_and_not_that_the_image_is_good() -> None:
    html = figure_html(AnswerImage(drawn(), FOUND), "a cat", True, 5)
    assert "chosen over retrieving with 90 %" in html and "not about this image" in html
    assert "cats/&lt;1&gt;.png" in html and "a &lt;cat&gt;" in html and "<cat>" not in html
    assert "as set in the settings" in figure_html(AnswerImage(drawn()), "a cat", False)
    assert "%" not in figure_html(AnswerImage(drawn(decision_probabilities=None)), "a cat", True)


def test_the_file_of_a_dialogue_holds_its_images_and_no_markup_that_was_typed() -> None:
    figure = figure_html(AnswerImage(drawn()), "a cat", True)
    history = [{"role": "user", "content": "<script>"}, {"role": "assistant", "content": ["a cat", shown(figure)]}]
    page = dialogue_page(history, "A dialogue with <x>")
    assert "&lt;script&gt;" in page and "<script>" not in page and "with &lt;x&gt;" in page
    assert figure in page and "data:image/png" in page


@pytest.mark.parametrize("component", ["file", "image", "gallery", "downloadbutton"])
def test_a_browser_cannot_have_the_server_build_other_components(component: str) -> None:
    item = {
        "type": "component",
        "component": component,
        "value": {"path": "/etc/hostname"},
        "constructor_args": {},
        "props": {},
    }
    with pytest.raises(gr.Error, match="did not write"):
        refuse_foreign(ChatbotDataMessages(root=[{"role": "assistant", "content": [item]}]))


def test_a_dialogue_names_no_file_that_was_not_uploaded() -> None:
    item = {"type": "file", "file": {"path": "/etc/hostname"}}
    with pytest.raises(gr.Error, match="not uploaded"):
        refuse_foreign(ChatbotDataMessages(root=[{"role": "user", "content": [item]}]))


def test_unknown_words_are_named_and_the_rest_is_answered(pipe: Any) -> None:
    def remark(text: str) -> tuple[str | None, bool]:
        return remark_on_words(pipe.processor, [{"role": "user", "content": [{"type": "text", "text": text}]}])

    assert remark("Show me a red house") == (None, True)
    said, answerable = remark("Show me a red zebra")
    assert answerable and said is not None and "“zebra”" in said and "the rest" in said
    said, answerable = remark("Bonjour!")
    assert not answerable and said is not None and "“bonjour”" in said
