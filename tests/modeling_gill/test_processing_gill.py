"""Prompts as people write them become batches, and tokens become answers."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_gill import GillProcessor
from tests.small_model import small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")


@pytest.fixture(scope="module")
def processor() -> GillProcessor:
    return small_processor()


def test_bos_comes_once_before_the_first_text_and_an_image_takes_its_placeholders(processor):
    ids = processor([[PHOTO, "a cat", PHOTO, "the dog"]])["input_ids"][0].tolist()
    image, cat, dog = (
        processor.image_token_id,
        *(processor.tokenizer(text, add_special_tokens=False).input_ids for text in ("a cat", "the dog")),
    )
    bos = processor.tokenizer("").input_ids
    assert ids == [image, image, *bos, *cat, image, image, *dog]


def test_a_batch_is_padded_on_the_left_and_images_come_in_reading_order(processor):
    black, white = (Image.new("RGB", (9, 9), colour) for colour in ("black", "white"))
    batch = processor(["a cat", [black, "the dog on a mat", white]])
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist())
    assert batch["attention_mask"][1].all()
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert batch["pixel_values"][0].max() < batch["pixel_values"][1].min()


@pytest.mark.parametrize(
    "image",
    (
        PHOTO,
        PHOTO.convert("L"),
        PHOTO.convert("P"),
        PHOTO.convert("CMYK"),
        PHOTO.convert("RGBA"),
        Image.new("RGB", (1, 1), "red"),
        np.asarray(PHOTO),
        torch.rand(3, 12, 8),
        {"type": "image", "image": PHOTO},
    ),
    ids=("RGB", "grey", "palette", "CMYK", "alpha", "1 x 1", "array", "tensor", "chat part"),
)
def test_an_image_of_any_kind_is_a_prompt_or_a_piece_of_one(processor, image):
    alone = processor([[image, "a cat"]])
    assert alone["pixel_values"].shape == (1, 3, 16, 16)
    assert torch.isfinite(alone["pixel_values"]).all()
    if not isinstance(image, dict):
        assert torch.equal(processor(image)["pixel_values"], alone["pixel_values"])


def test_in_a_list_a_path_is_an_image_and_outside_of_one_it_is_text(processor, tmp_path):
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    assert "pixel_values" in processor([[str(path), "what is this ?"]])
    assert "pixel_values" in processor([[Path(path), "what is this ?"]])
    assert "pixel_values" in processor(Path(path))
    assert "pixel_values" not in processor([str(path)])
    assert "pixel_values" not in processor("https://nowhere.invalid/photo.png")


def test_chat_messages_become_the_papers_questions_and_answers(processor):
    chat = [
        {"role": "user", "content": [{"type": "image", "image": PHOTO}, {"type": "text", "text": "what is this ?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
        {"role": "user", "content": "what colour ?"},
    ]
    written = ["Q: ", PHOTO, "what is this ?\nA: a cat\nQ: what colour ?\nA:"]
    by_hand, by_template = processor([written]), processor(chat)
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(by_hand[name], by_template[name])
    again = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert torch.equal(again["input_ids"], by_hand["input_ids"])
    both = processor([chat, "a cat"])
    assert both["input_ids"].shape[0] == 2


def test_texts_with_placeholders_and_images_apart_do_as_well(processor):
    token = processor.image_token
    expected = processor([["look ", PHOTO, " a cat"], "the dog"])
    for images in (PHOTO, [PHOTO], [[PHOTO], []]):
        found = processor(text=[f"look {token} a cat", "the dog"], images=images)
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["pixel_values"], expected["pixel_values"])


def test_an_image_can_be_asked_for_at_the_end_of_a_prompt_but_not_twice(processor):
    once = processor("a cat", add_img_tokens=True)["input_ids"][0].tolist()
    assert once[-3:] == processor.image_output_token_ids
    written = processor("a cat" + "".join(processor.img_tokens), add_img_tokens=True)["input_ids"][0].tolist()
    assert written == once


@pytest.mark.parametrize(
    ("prompt", "message"),
    (
        (None, "The prompt is None"),
        ([], "The list of prompts is empty"),
        ("", "Prompt 0 is an empty string"),
        ("  \n", "Prompt 0 is an empty string"),
        ([["a cat"], []], "Prompt 1 is empty"),
        ([[""]], "Prompt 0 is empty"),
        ([None], "Prompt 0 is None of type NoneType"),
        ([["a cat", 7]], "Prompt 0, piece 1 is 7 of type int"),
        ([["a <|image|> cat"]], "Prompt 0, piece 0 holds the placeholder"),
        ([["a cat", np.full((4, 4, 3), np.nan)]], "Prompt 0, piece 1: .*(NaN|finite)"),
        ([[torch.full((3, 4, 4), torch.inf)]], "Prompt 0, piece 0: .*(NaN|inf|finite)"),
        ([[Path("nowhere.png")]], "Prompt 0, piece 0: .*nowhere.png"),
        ([{"role": "user", "content": [{"type": "image"}]}], "Prompt 0: a part of type 'image' has none of the keys"),
        ([{"role": "user", "content": 3}], "a chat message's content is int"),
    ),
)
def test_a_prompt_that_cannot_be_read_is_named_and_what_was_expected(processor, prompt, message):
    with pytest.raises(ValueError, match=message):
        processor(prompt)


def test_a_truncated_image_is_refused(processor, tmp_path):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 40).convert("RGB").save(file, "PNG")
    (tmp_path / "half.png").write_bytes(file.getvalue()[:900])
    with pytest.raises(ValueError, match=r"half.png.*truncated"):
        processor([["a cat", tmp_path / "half.png"]])


def test_an_image_of_20000_by_20000_is_refused_before_it_is_decoded(processor, tmp_path):
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ValueError, match="20000"):
        processor([[path, "a cat"]])


@pytest.mark.parametrize(
    ("text", "images", "message"),
    (
        ("a <|image|> cat", None, "1 placeholders '<|image|>' for 0 images"),
        ("a <|image|> cat <|image|>", PHOTO, "2 placeholders '<|image|>' for 1 images"),
        ("a cat", PHOTO, "0 placeholders '<|image|>' for 1 images"),
        (["a", "b"], [[PHOTO]], "1 lists for 2 texts"),
        (["<|image|>", "b"], [[], [PHOTO]], "Text 0 holds 1 placeholders '<|image|>' for 0 images"),
        ([1], None, "`text` must be a string"),
    ),
)
def test_placeholders_and_images_must_match(processor, text, images, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        processor(text=text, images=images)


def test_unknown_arguments_are_refused(processor):
    with pytest.raises(TypeError, match="takes no \\['colour'\\]"):
        processor("a cat", colour="red")


def test_a_tokenizer_without_the_tokens_is_refused(processor):
    with pytest.raises(ValueError, match=r"lacks \['\[IMG3\]'\]"):
        GillProcessor(processor.image_processor, processor.tokenizer, 2, [f"[IMG{i}]" for i in range(4)])


def test_a_saved_processor_comes_back_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = GillProcessor.from_pretrained(tmp_path)
    prompts = ["the dog", [PHOTO, "a cat"]]
    assert torch.equal(loaded(prompts)["input_ids"], processor(prompts)["input_ids"])
    assert torch.equal(loaded(prompts)["pixel_values"], processor(prompts)["pixel_values"])
    assert (loaded.num_visual_tokens, loaded.img_tokens) == (2, processor.img_tokens)
    assert loaded.chat_template == processor.chat_template


def ids_of(processor: GillProcessor, *pieces: str | list[int]) -> list[int]:
    return [
        i
        for piece in pieces
        for i in (processor.tokenizer(piece, add_special_tokens=False).input_ids if isinstance(piece, str) else piece)
    ]


def test_an_answer_is_taken_apart_into_texts_and_images(processor):
    img = processor.image_output_token_ids
    ids = ids_of(processor, "a cat . the dog", img, "the sun\nand more", img)
    assert processor.split_answer(ids) == ["a cat .", ids.index(img[0]), "the sun"]
    whole = processor.split_answer(ids, truncate_text=False)
    assert [piece for piece in whole if isinstance(piece, str)] == ["a cat . the dog", "the sun\nand more"]
    assert processor.split_answer(ids, max_images=1) == ["a cat .", ids.index(img[0])]


def test_the_tokens_of_an_image_are_never_text(processor):
    img = processor.image_output_token_ids
    assert processor.split_answer(ids_of(processor, img, img, "a cat")) == [0, 3, "a cat"]


def test_a_newline_that_comes_first_does_not_end_the_answer(processor):
    assert processor.split_answer(ids_of(processor, "\n", "a cat", "\n", "the dog")) == ["a cat"]
