"""What people type to the picture book, as chat messages, leads to what they ask for."""

import copy
import json

import pytest
import torch

from chat_gill.words import current_dialogue
from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.gill_answers import load_pipeline
from picturebook.models.smollm2 import with_each_request_alone
from picturebook.stages.assemble_repository import CHAT_EXAMPLES, CHAT_TEMPLATE
from pipeline_gill import GillPipeline


@pytest.fixture(scope="module")
def pipe() -> GillPipeline:
    return load_pipeline(CHECKPOINT)


def read_as(pipe: GillPipeline, *turns: str) -> str:
    """What the model reads of a conversation, user and model in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return pipe.processor.apply_chat_template(messages, add_generation_prompt=True)


def test_the_checkpoint_has_the_template_that_training_writes() -> None:
    written = (CHECKPOINT / "chat_template.jinja").read_text(encoding="utf-8")
    assert written == CHAT_TEMPLATE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("show me a cat", "a cat . picture :"),
        ("Show me a cat!", "a cat . picture :"),
        ("SHOW ME A CAT.", "a cat . picture :"),
        ("Hello, could you please draw me a cat?", "a cat . picture :"),
        ("draw a blue boat at sea", "a blue boat at sea . picture :"),
        ("A red house", "a red house . picture :"),
        ("a red house.", "a red house . picture :"),
        ("An image of a red house on the left , please", "a red house on the left . picture :"),
        ("I'd like to see a picture of a red house", "a red house . picture :"),
        ("A red house.Then it turns blue.", "a red house . then it turns blue . picture :"),
        ("A red house.\nThen it turns blue. Show me!", "a red house . then it turns blue . picture :"),
        ("A red house. What color is it?", "a red house . what colour is it ?"),
        ("What is there?", "Q: what is there ? A:"),
        ("a red house . then it turns blue . picture :", "a red house . then it turns blue . picture :"),
        ("a red house . Q: can we see it ? A: picture :", "a red house . Q: can we see it ? A: picture :"),
    ],
)
def test_typed_text_becomes_the_form_of_the_stories(pipe: GillPipeline, typed: str, expected: str) -> None:
    assert read_as(pipe, typed) == expected


@pytest.mark.parametrize(
    "typed",
    [
        "a red house on the left at night . then it turns blue .",
        "Draw a blue boat at sea!",
        "There is a cat in the snow.",
        "At night, a red house",
        "blue fish",
        "Could you show me a tree?",
    ],
)
def test_a_scene_of_its_own_begins_another_dialogue(pipe: GillPipeline, typed: str) -> None:
    said = [{"role": "user", "content": "Show me a cat"}, {"role": "assistant", "content": "a cat"}]
    new = [{"role": "user", "content": typed}]
    assert current_dialogue(pipe.processor, said + new) == new
    after = [{"role": "assistant", "content": ""}, {"role": "user", "content": "it turns green"}]
    assert current_dialogue(pipe.processor, said + new + after) == new + after


@pytest.mark.parametrize(
    "typed",
    [
        "Then it turns blue.",
        "the cat leaves",
        "A red house appears on the left.",
        "a boat joins it",
        "Make it blue",
        "at night",
        "red",
        "again",
        "Is there a cat?",
        "What colour is the cat?",
        "and a tree on the right",
        "a zebra",
    ],
)
def test_what_goes_on_with_a_story_does_not_begin_another(pipe: GillPipeline, typed: str) -> None:
    said = [{"role": "user", "content": "Show me a cat"}, {"role": "assistant", "content": "a cat"}]
    assert len(current_dialogue(pipe.processor, [*said, {"role": "user", "content": typed}])) == 3


def test_adapters_that_know_single_requests_read_each_alone_and_questions_behind_them(pipe: GillPipeline) -> None:
    processor = copy.copy(pipe.processor)
    processor.chat_template = with_each_request_alone(processor.chat_template)
    said = [{"role": "user", "content": "Show me a cat"}, {"role": "assistant", "content": "a cat"}]
    for text in ("then it turns blue", "Can you draw a boat?", "Thank you!"):
        new = [{"role": "user", "content": text}]
        assert current_dialogue(processor, said + new) == new
    given = [
        {
            "role": "user",
            "content": [{"type": "image", "image": "an-image.png"}, {"type": "text", "text": "What is it?"}],
        }
    ]
    assert current_dialogue(processor, said + given) == given
    about = [*said, {"role": "user", "content": "Which colour is the cat?"}]
    assert current_dialogue(processor, [*said, *about]) == about
    new = [{"role": "user", "content": "then it turns blue"}]
    assert processor.apply_chat_template(said + new) == pipe.processor.apply_chat_template(said + new)


def test_a_conversation_becomes_one_story(pipe: GillPipeline) -> None:
    asked = read_as(pipe, "A red house on the left.", "", "What colour is it?", "red .", "Then it turns blue.")
    assert (
        " ".join(asked.split()) == "a red house on the left . what colour is it ? red . then it turns blue . picture :"
    )


def test_the_examples_of_the_chat_page_are_understood(pipe: GillPipeline) -> None:
    assert (CHECKPOINT / CHAT_EXAMPLES.name).read_text(encoding="utf-8") == CHAT_EXAMPLES.read_text(encoding="utf-8")
    for text in json.loads(CHAT_EXAMPLES.read_text(encoding="utf-8")):
        chat = [{"role": "user", "content": text}]
        assert pipe.processor.unknown_words(chat) == []
        assert len(pipe([chat], decision="retrieve").images) == 1


@pytest.mark.parametrize("typed", ["show me a cat", "Draw a blue boat at sea.", "a red house", "A Red House."])
def test_what_people_type_leads_to_an_image_of_it(pipe: GillPipeline, typed: str) -> None:
    out = pipe([{"role": "user", "content": typed}], generator=torch.Generator().manual_seed(0))
    thing = typed.lower().strip(".").removeprefix("show me ").removeprefix("draw ")
    assert out.texts[0].strip() == thing
    assert len(out.images) == 1


def test_unknown_words_are_named(pipe: GillPipeline) -> None:
    assert pipe.processor.unknown_words([{"role": "user", "content": "Show me two Zebras and a red house"}]) == [
        "zebras"
    ]
    assert pipe.processor.unknown_words("a red house . picture :") == []
