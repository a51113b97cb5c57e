"""A model over a language model that was taught chats reads them by that one's own template."""

import copy

import pytest
import torch
from PIL import Image

from modeling_gill import GillProcessor
from modeling_gill.chat_template_gill import DEFAULT_CHAT_TEMPLATE
from tests.small_model import small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
# As SmolLM2's: content is a string, and a list of parts an error.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "SmolLM2": SMOLLM2,
    # As Qwen3's: of parts, nothing is written.
    "Qwen3": "{% for m in messages %}{% if m.content is string %}{% set c = m.content %}{% else %}{% set c = '' %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # As Llama 3's: parts are written as Python prints them; begins with BOS.
    "Llama 3": "{{- bos_token }}{% set system = 'none' %}{% if messages[0].role == 'system' %}"
    "{% set system = messages[0].content %}{% set messages = messages[1:] %}{% endif %}system {{ system }}"
    "{% for m in messages %}{{ '|' + m.role + '|' + m.content | trim + '|' }}{% endfor %}"
    "{% if add_generation_prompt %}|assistant|{% endif %}",
    # As those of models that come with an image tower: parts alone, a placeholder of their own.
    "LLaVA": "{% for m in messages %}{{ m.role }}: {% for part in m.content %}{% if part.type == 'image' %}<image>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}",
}


def tokenizer_with(template: str | dict | None):
    tokenizer = copy.deepcopy(small_processor().tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def processor_with(template: str | dict | None, **kwargs) -> GillProcessor:
    plain = small_processor()
    return GillProcessor(plain.image_processor, tokenizer_with(template), 2, plain.img_tokens, **kwargs)


@pytest.mark.parametrize("name", ("SmolLM2", "Qwen3", "Llama 3"))
def test_texts_are_formatted_exactly_as_the_language_models_own_tokenizer_does(name):
    processor, tokenizer = processor_with(TEMPLATES[name]), tokenizer_with(TEMPLATES[name])
    chats = [
        [{"role": "user", "content": "a cat"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a cat"}],
        [
            {"role": "user", "content": "a cat"},
            {"role": "assistant", "content": "the dog"},
            {"role": "user", "content": "a bird"},
        ],
    ]
    for chat in chats:
        own = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in chat]
        for given in (chat, parts):
            assert processor.apply_chat_template(given, add_generation_prompt=True) == own
            ids = processor([given])["input_ids"][0].tolist()
            bos = [tokenizer.bos_token_id]
            own_ids = tokenizer(own, add_special_tokens=False).input_ids
            assert ids == (own_ids if own_ids[:1] == bos else processor._prefix() + own_ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_images_stand_where_they_are_in_a_message(name):
    processor = processor_with(TEMPLATES[name])
    content = [{"type": "text", "text": "a cat "}, {"type": "image", "image": PHOTO}, {"type": "text", "text": " dog"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert "a cat <|image|> dog" in text
    batch = processor([[{"role": "user", "content": content}]])
    assert batch["pixel_values"].shape[0] == 1
    assert int((batch["input_ids"] == processor.image_token_id).sum()) == 2
    tokenized = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
    )
    assert torch.equal(tokenized["input_ids"], batch["input_ids"])
    assert torch.equal(tokenized["pixel_values"], batch["pixel_values"])


def test_bos_comes_once_where_the_template_writes_it():
    ids = processor_with(TEMPLATES["Llama 3"])([[{"role": "user", "content": "a cat"}]])["input_ids"][0].tolist()
    assert ids.count(processor_with(None).tokenizer.bos_token_id) == 1


def test_the_template_is_saved_with_the_processor(tmp_path):
    processor = processor_with(SMOLLM2)
    processor.save_pretrained(tmp_path)
    loaded = GillProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == processor.chat_template and loaded.chat_template.endswith(SMOLLM2)
    assert loaded.truncate_text is False
    chat = [{"role": "user", "content": [{"type": "image", "image": PHOTO}, {"type": "text", "text": "a cat"}]}]
    assert torch.equal(loaded([chat])["input_ids"], processor([chat])["input_ids"])


def test_a_tokenizer_without_a_template_keeps_the_papers_questions_and_answers():
    processor = processor_with(None)
    assert processor.chat_template == DEFAULT_CHAT_TEMPLATE and processor.truncate_text
    assert processor.apply_chat_template([{"role": "user", "content": "a cat"}], add_generation_prompt=True) == (
        "Q: a cat\nA:"
    )


def test_a_template_that_is_given_comes_before_the_tokenizers_own():
    processor = processor_with(SMOLLM2, chat_template="{{ messages[0].content }}")
    assert processor.chat_template == "{{ messages[0].content }}" and processor.truncate_text
    assert processor_with(SMOLLM2, truncate_text=True).truncate_text


def test_of_several_templates_by_name_the_default_is_taken():
    assert processor_with({"default": SMOLLM2, "tool_use": "{{ 1 }}"}).chat_template.endswith(SMOLLM2)
    assert processor_with({"tool_use": "{{ 1 }}"}).chat_template == DEFAULT_CHAT_TEMPLATE


def test_a_template_that_cannot_hold_an_image_is_named_and_not_used(caplog):
    for template in ("{{ raise_exception('no') }}", "{{ 'nothing' }}", "{{ messages[0].content }}"):
        caplog.clear()
        assert processor_with(template).chat_template == DEFAULT_CHAT_TEMPLATE
        assert "cannot be rendered with a message of texts and an image" in caplog.text


def test_an_answer_is_cut_at_newlines_and_full_stops_only_in_the_papers_form():
    ids = small_processor().tokenizer("a cat . the dog\na mat", add_special_tokens=False).input_ids
    assert processor_with(None).split_answer(ids) == ["a cat ."]
    chatting = processor_with(SMOLLM2)
    assert chatting.split_answer(ids) == ["a cat . the dog\na mat"]
    assert chatting.split_answer(ids, truncate_text=True) == ["a cat ."]
    assert chatting.split_answer([*ids, chatting.tokenizer.eos_token_id]) == ["a cat . the dog\na mat"]


# As Qwen3's switch: thinking is on unless it is switched off, which writes an empty thought.
THINKING = TEMPLATES["Qwen3"] + (
    "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
CHAT = [{"role": "user", "content": [{"type": "text", "text": "a cat "}, {"type": "image", "image": PHOTO}]}]


def test_variables_of_a_template_are_those_of_the_call_and_by_default_of_the_processor(tmp_path):
    processor, tokenizer = processor_with(THINKING), processor_with(THINKING).tokenizer
    off = {"enable_thinking": False}

    def read(processor: GillProcessor, **options) -> str:
        return tokenizer.decode(processor([CHAT], **options)["input_ids"][0])

    plain = read(processor)
    assert not plain.endswith("</think>\n\n")
    assert read(processor, chat_template_kwargs=off) == plain + "<think>\n\n</think>\n\n"
    rendered = processor.apply_chat_template(CHAT, add_generation_prompt=True, **off)
    assert rendered.endswith("<think>\n\n</think>\n\n")
    assert rendered == processor.apply_chat_template(CHAT, add_generation_prompt=True) + "<think>\n\n</think>\n\n"

    saved = processor_with(THINKING, chat_template_kwargs=off)
    saved.save_pretrained(tmp_path)
    for one in (saved, GillProcessor.from_pretrained(tmp_path)):
        assert one.chat_template_kwargs == off
        assert read(one) == read(processor, chat_template_kwargs=off)
        assert one.apply_chat_template(CHAT, add_generation_prompt=True) == rendered
        assert read(one, chat_template_kwargs={"enable_thinking": True}) == plain


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"enable_thinkin": False}, "has 'enable_thinkin', which the chat template does not read"),
        ({"messages": []}, "has 'messages', which the processor sets"),
        ({"tokenize": True}, "has 'tokenize', which the chat template does not read"),
        (["enable_thinking"], "expected a dict"),
    ],
)
def test_a_variable_that_a_template_does_not_read_is_refused(variables, message):
    with pytest.raises(ValueError, match=message):
        processor_with(THINKING)([CHAT], chat_template_kwargs=variables)
    with pytest.raises(ValueError, match=message):
        processor_with(THINKING, chat_template_kwargs=variables)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_that_ends_with_the_beginning_of_an_answer_goes_on_right_there(name):
    processor = processor_with(TEMPLATES[name])
    question = {"role": "user", "content": [{"type": "text", "text": "a cat"}]}
    picture = [{"type": "text", "text": "the dog"}, {"type": "image", "image": PHOTO}]
    for content, end in (([{"type": "text", "text": "the dog"}], "the dog"), (picture, "the dog" + "<|image|>" * 2)):
        batch = processor([[question, {"role": "assistant", "content": content}]])
        text = processor.tokenizer.decode(batch["input_ids"][0])
        assert text.endswith(end) and "a cat" in text


def test_a_template_that_rewrites_messages_keeps_the_end_it_writes():
    shouting = "{% for m in messages %}{{ m.content | upper | replace('\ufdd1', '') }}<end>{% endfor %}"
    processor = processor_with(shouting + "{% if false %}{{ image_token }}{% endif %}", chat_template=shouting)
    chat = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "the dog"}]
    assert processor.tokenizer.decode(processor([chat])["input_ids"][0]).endswith("A CAT<end>THE DOG<end>")
