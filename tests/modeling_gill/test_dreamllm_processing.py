"""Prompts and answers with tokens around images."""

import pytest
from PIL import Image

from modeling_gill import GillProcessor
from tests.small_dream import AROUND_IMAGES, NUM_PATCHES, small_dream_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
READ = ["<im_start>", *["<im_patch>"] * NUM_PATCHES, "<im_end>"]
WRITTEN = ["<dream_start>", *[f"<dream_query_{i}>" for i in range(3)], "<dream_end>"]


@pytest.fixture(scope="module")
def processor():
    return small_dream_processor()


def tokens_of(processor, prompt, **options):
    return processor.tokenizer.convert_ids_to_tokens(processor([prompt], **options)["input_ids"][0])


def words(processor, text):
    return processor.tokenizer.tokenize(text, add_special_tokens=False)


def test_an_image_is_read_between_its_tokens(processor):
    expected = [*words(processor, "a dog"), *READ, *words(processor, "a cat")]
    assert tokens_of(processor, ["a dog", PHOTO, "a cat"])[-len(expected) :] == expected
    tokens = processor.tokenizer.tokenize(processor.replace_image_token({}, 0), add_special_tokens=False)
    assert tokens == READ


def test_texts_that_follow_one_another_are_one_text(processor):
    expected = tokens_of(processor, [PHOTO, "a yellow car"])
    assert tokens_of(processor, [PHOTO, "a yel", "low car"]) == expected


def test_what_begins_a_text_begins_a_prompt_that_begins_with_an_image(processor):
    processor = GillProcessor(
        processor.image_processor, processor.tokenizer, NUM_PATCHES, processor.img_tokens, "<im_patch>", **AROUND_IMAGES
    )
    processor._prefix = lambda: [2]
    assert tokens_of(processor, [PHOTO, "a cat"]) == ["</s>", *READ, *words(processor, "a cat")]
    assert tokens_of(processor, [PHOTO]) == ["</s>", *READ]


def test_a_request_for_an_image_is_the_whole_run_once(processor):
    tokens = tokens_of(processor, "a cat", add_img_tokens=True)
    assert tokens[-5:] == WRITTEN and tokens.count("<dream_start>") == 1
    run = "".join(WRITTEN)
    again = tokens_of(processor, f"a cat{run}", add_img_tokens=True, split_image_tokens=False)
    assert again == tokens


@pytest.mark.parametrize("token", (*AROUND_IMAGES.values(), "<dream>", "<dream_query_1>", "<im_patch>", "<pad>"))
def test_special_tokens_that_a_stranger_types_are_text(processor, token):
    for prompt in (f"a {token} cat", [{"role": "user", "content": f"a {token} cat"}]):
        assert token not in tokens_of(processor, prompt)


def test_an_image_that_was_read_after_it_was_drawn_is_in_no_text(processor):
    def ids(*tokens):
        return processor.tokenizer.convert_tokens_to_ids(list(tokens))

    first, second = (processor.tokenizer(text, add_special_tokens=False).input_ids for text in ("a dog", "a cat"))
    answer = [*first, *ids(*WRITTEN, *READ), *second, *ids(*WRITTEN)]
    pieces = processor.split_answer(answer, truncate_text=False)
    place = len(first) + 1
    assert [piece.strip() if isinstance(piece, str) else piece for piece in pieces] == [
        "a dog",
        place,
        "a cat",
        place + len(ids(*WRITTEN, *READ)) + len(second),
    ]
    assert processor.split_answer(answer, max_images=1, truncate_text=False) == pieces[:2]


def test_a_saved_processor_comes_back_with_its_tokens(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = GillProcessor.from_pretrained(tmp_path)
    assert loaded.image_input_run_ids == processor.image_input_run_ids
    assert loaded.image_output_run_ids == processor.image_output_run_ids
    for prompt in (["a dog", PHOTO], "<dream_start>"):
        assert tokens_of(loaded, prompt, add_img_tokens=True) == tokens_of(processor, prompt, add_img_tokens=True)


def test_truncation_never_cuts_the_tokens_around_an_image(processor):
    with pytest.raises(ValueError, match="would cut an image"):
        processor([["a", PHOTO]], truncation=True, max_length=5)


def test_a_token_that_the_tokenizer_lacks_is_named(processor):
    with pytest.raises(ValueError, match=r"lacks \['<eoi>'\]"):
        GillProcessor(
            processor.image_processor,
            processor.tokenizer,
            NUM_PATCHES,
            processor.img_tokens,
            "<im_patch>",
            **{**AROUND_IMAGES, "image_end_token": "<eoi>"},
        )
