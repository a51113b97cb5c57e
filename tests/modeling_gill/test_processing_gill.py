"""Prompts become batches, and generated tokens become texts and images."""

import base64
import copy
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import PythonBackend, TextStreamer

from modeling_gill import GillProcessor
from modeling_gill.image_loading_gill import ImageLimits
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
    typed = "a cat" + "".join(processor.img_tokens)
    assert processor(typed, add_img_tokens=True, split_image_tokens=False)["input_ids"][0].tolist() == once


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
        ([["a cat", np.full((4, 4, 3), np.nan)]], "Prompt 0, piece 1: .*(NaN|finite)"),
        ([[torch.full((3, 4, 4), torch.inf)]], "Prompt 0, piece 0: .*(NaN|inf|finite)"),
        ([[Path("nowhere.png")]], "Prompt 0, piece 0: .*nowhere.png"),
        ([["a cat"], ["a \ud800 dog"]], r"Prompt 1, piece 0 holds the lone surrogate U\+D800 at character 2"),
        ([["a cat", {"type": None}]], "Prompt 0, piece 1 is .*None.*expected .*'type|\"type"),
        ([["a cat", {"type": "video", "video": "a.mp4"}]], "Prompt 0, piece 1 is .*video"),
        ([["a cat", {"type": "text", "text": None}]], "Prompt 0, piece 1: its text is None; expected a string"),
        ([["a cat", {"type": "image", "url": "/etc/photo.png"}]], "'url' is '/etc/photo.png'; expected an http"),
        ([["a cat", {"type": "image_url", "image_url": {"url": "photo.png"}}]], "'image_url' is 'photo.png'"),
        ({"role": "user", "content": "a cat"}, "Prompt 0 is a chat message alone; expected a list of messages"),
        ([{"role": "user", "content": [{"type": "image"}]}], "Prompt 0, message 0, part 0: .* none of the keys"),
        ([{"role": "user", "content": [{"type": None}]}], "Prompt 0, message 0, part 0 is .*None"),
        ([{"role": "user", "content": ["a cat"]}], "Prompt 0, message 0, part 0 is 'a cat'; expected"),
        ([{"role": "user", "content": 3}], "Prompt 0, message 0: its content is 3; expected a string or a list"),
        ([{"role": "user"}], "Prompt 0, message 0: its content is None"),
        ([{"role": "user", "content": "a cat"}, {"content": "a"}], "Prompt 0, message 1 is .*expected .*role"),
        ([{"role": None, "content": "a cat"}], "Prompt 0, message 0 is .*expected .*role"),
        ([{"role": "User", "content": "a cat"}], "Prompt 0, message 0: its role is 'User'; expected one such as"),
        ([{"role": "", "content": "a cat"}], "Prompt 0, message 0: its role is ''; expected one such as"),
        ([{"role": "user", "content": "a \udfff"}], r"Prompt 0, message 0 holds the lone surrogate U\+DFFF"),
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


@pytest.mark.parametrize(
    ("kwargs", "message"),
    (
        ({"colour": "red"}, "takes no 'colour'"),
        ({"paddding": True}, "takes no 'paddding'; did you mean 'padding'"),
        ({"do_rezise": False}, "did you mean 'do_resize'"),
        ({"text_kwargs": {"max_lenght": 3}}, "did you mean 'max_length'"),
        ({"images_kwargs": {"padding": True}}, "takes no 'padding'"),
        ({"return_offsets_mapping": True}, "takes no 'return_offsets_mapping': texts are tokenized in pieces"),
        ({"videos_kwargs": {"fps": 3}}, "only text and images"),
    ),
)
def test_unknown_arguments_are_refused_with_the_nearest_name(processor, kwargs, message):
    with pytest.raises(TypeError, match=message):
        processor("a cat", **kwargs)


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


# --- keyword arguments of transformers' processors -------------------------------------------------------------------


def test_padding_is_the_callers_choice(processor):
    prompts = ["a cat", [PHOTO, "the dog on a mat"]]
    ragged = processor(prompts, padding=False, return_tensors=None)["input_ids"]
    assert len(ragged[0]) < len(ragged[1])
    wide = processor(prompts, padding="max_length", max_length=30)
    assert wide["input_ids"].shape == wide["attention_mask"].shape == (2, 30)
    assert wide["attention_mask"].sum(1).tolist() == [len(ids) for ids in ragged]
    assert processor(prompts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    right = processor(prompts, padding_side="right")
    assert right["input_ids"][0, : len(ragged[0])].tolist() == ragged[0]
    assert torch.equal(processor(prompts, text_kwargs={"padding_side": "right"})["input_ids"], right["input_ids"])
    with pytest.raises(ValueError, match="padding"):
        processor(prompts, padding=False)


def test_the_attention_mask_can_be_left_out(processor):
    assert set(processor(["a cat", [PHOTO]], return_attention_mask=False)) == {"input_ids", "pixel_values"}


@pytest.mark.parametrize("side", ("right", "left"))
def test_truncation_cuts_text_and_never_an_image(processor, side, monkeypatch):
    monkeypatch.setattr(processor.tokenizer, "truncation_side", side)
    prompt = [PHOTO, "a cat on a mat in the sun"] if side == "right" else ["a cat on a mat in the sun", PHOTO]
    processor = with_template(processor, "</s> $A")
    whole = processor([prompt])["input_ids"][0].tolist()
    for kwargs in ({"truncation": True, "max_length": 8}, {"text_kwargs": {"truncation": True, "max_length": 8}}):
        cut = processor([prompt, "a cat"], **kwargs)
        ids = cut["input_ids"][0].tolist()
        assert ids == (whole[:8] if side == "right" else [whole[0], *whole[-7:]])
        assert cut["pixel_values"].shape[0] == 1
    ending = processor([prompt], truncation=True, max_length=8, add_img_tokens=True)["input_ids"][0].tolist()
    assert len(ending) == 8 and ending[-3:] == processor.image_output_token_ids
    with pytest.raises(ValueError, match="Prompt 1: truncation to `max_length` would cut an image"):
        processor(["a cat", [PHOTO, PHOTO, PHOTO]], truncation=True, max_length=4)
    assert len(processor([prompt], max_length=4)["input_ids"][0]) == len(whole)


def test_images_alone_give_pixel_values_alone(processor):
    for images in (PHOTO, [PHOTO], [[PHOTO]], torch.rand(1, 3, 9, 9)):
        alone = processor(images=images)
        assert set(alone) == {"pixel_values"} and alone["pixel_values"].shape == (1, 3, 16, 16)
    assert processor(images=[[PHOTO], [PHOTO, PHOTO]])["pixel_values"].shape[0] == 3
    expected = processor.image_processor(images=[PHOTO], return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(images=PHOTO)["pixel_values"], expected)


def test_the_image_processors_own_arguments_reach_it(processor):
    usual = processor([[PHOTO, "a cat"]])["pixel_values"]
    for kwargs in ({"do_rescale": True, "rescale_factor": -1.0}, {"images_kwargs": {"rescale_factor": -1.0}}):
        assert processor([[PHOTO, "a cat"]], **kwargs)["pixel_values"].max() < usual.max()
    sized = processor(images=PHOTO, size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    assert sized["pixel_values"].shape[-2:] == (24, 24)
    with pytest.raises(ValueError, match="do_resize"):
        processor("a cat", do_resize=False, images_kwargs={"do_resize": True})


def test_the_type_of_each_token_can_be_asked_for(processor):
    batch = processor(["a cat", [PHOTO, "the dog"]], return_mm_token_type_ids=True)
    types = torch.as_tensor(batch["mm_token_type_ids"])
    assert torch.equal(types == 1, batch["input_ids"] == processor.image_token_id)
    assert types.sum(1).tolist() == [0, processor._get_num_multimodal_tokens([(20, 30)])["num_image_tokens"][0]]


def test_what_inference_servers_ask_a_processor(processor):
    counted = processor._get_num_multimodal_tokens(image_sizes=[(30, 20), (5, 5)])
    assert (counted["num_image_tokens"], counted["num_image_patches"]) == ([2, 2], [1, 1])
    assert processor.replace_image_token({}, 0) == 2 * processor.image_token
    assert processor.image_token_ids == [processor.image_token_id]
    assert set(processor([[PHOTO, "a cat"]])) == set(processor.model_input_names)


@pytest.mark.parametrize("kind", ("np", None))
def test_arrays_and_lists_instead_of_tensors(processor, kind):
    tensors = processor([[PHOTO, "a cat"], [PHOTO, "the dog"]])
    other = processor([[PHOTO, "a cat"], [PHOTO, "the dog"]], return_tensors=kind)
    for name, value in tensors.items():
        assert np.array_equal(np.asarray(other[name]), value.numpy())


# --- prompts of other kinds ------------------------------------------------------------------------------------------


def test_prompts_come_in_any_iterable(processor):
    datasets = pytest.importorskip("datasets")
    prompts = ["a cat", "the dog"]
    expected = processor(prompts)["input_ids"]
    column = datasets.Dataset.from_dict({"text": prompts})["text"]
    for several in (
        tuple(prompts),
        iter(prompts),
        (p for p in prompts),
        column,
        np.array(prompts),
        dict.fromkeys(prompts).keys(),
    ):
        assert torch.equal(processor(several)["input_ids"], expected)
    assert torch.equal(processor(text=column)["input_ids"], expected)
    with pytest.raises(ValueError, match="empty"):
        processor(iter(()))


def test_an_image_comes_in_any_form(processor, tmp_path):
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    encoded = base64.urlsafe_b64encode(path.read_bytes()).decode().rstrip("=")
    expected = processor([[PHOTO]])["pixel_values"]
    forms = [
        *(path, str(path), path.as_uri(), path.read_bytes(), io.BytesIO(path.read_bytes())),
        *(f"data:image/png;base64,{encoded}", np.asarray(PHOTO)[None], {"bytes": path.read_bytes(), "path": None}),
        *({"type": "image", "path": str(path)}, {"type": "image", "base64": encoded}, {"type": "image", "image": path}),
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "image", "url": f"data:image/png;base64,{encoded}", "image": None},
    ]
    for form in forms:
        assert torch.equal(processor([["a cat", form]])["pixel_values"], expected)
    assert torch.equal(processor(io.BytesIO(path.read_bytes()))["pixel_values"], expected)
    for part in forms[-5:]:
        chat = [{"role": "user", "content": [part]}]
        assert torch.equal(processor(chat)["pixel_values"], expected)
        tokenized = processor.apply_chat_template(chat, tokenize=True, return_dict=True)
        assert torch.equal(tokenized["pixel_values"], expected)


# --- special tokens --------------------------------------------------------------------------------------------------


def test_image_tokens_that_somebody_typed_are_text(processor):
    special = {processor.image_token_id, *processor.image_output_token_ids}
    typed = "a <|image|> cat [IMG0][IMG1][IMG2] <|image|>"
    chat = [{"role": "user", "content": [{"type": "text", "text": typed}, {"type": "image", "image": PHOTO}]}]
    batch = processor([typed, [typed, PHOTO], [{"type": "text", "text": typed}], chat, "the dog"])
    assert batch["pixel_values"].shape[0] == 2
    for ids, images in zip(batch["input_ids"].tolist(), (0, 1, 0, 1, 0), strict=True):
        assert [i for i in ids if i in special] == [processor.image_token_id] * 2 * images
    assert processor.tokenizer.decode(processor(typed)["input_ids"][0], skip_special_tokens=True) == typed
    tokenized = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    assert torch.equal(tokenized["input_ids"], processor([chat])["input_ids"])
    assert processor.apply_chat_template(chat).count("<|image|>") == 3


def test_image_tokens_are_special_where_that_is_asked_for(processor):
    typed = "a cat" + "".join(processor.img_tokens)
    ids = processor(typed, split_image_tokens=False)["input_ids"][0].tolist()
    assert ids[-3:] == processor.image_output_token_ids
    parts = (processor.image_processor, processor.tokenizer, 2, processor.img_tokens)
    assert GillProcessor(*parts, split_image_tokens=False)(typed)["input_ids"][0].tolist() == ids
    assert processor.image_token_id not in processor([["a <|image|> cat"]], split_image_tokens=False)["input_ids"]


def test_typed_tokens_of_fromage_request_an_image_also_where_an_older_repository_does_not_say_so(processor):
    tokenizer = GillProcessor.extend_tokenizer(copy.deepcopy(processor.tokenizer), ["[RET]"])
    fromage = GillProcessor(processor.image_processor, tokenizer, 1, ["[RET]"])
    assert fromage("a cat[RET]")["input_ids"][0].tolist()[-1:] == fromage.image_output_token_ids
    assert processor.split_image_tokens and not fromage.split_image_tokens


def with_template(processor: GillProcessor, template: str, **kwargs: Any) -> GillProcessor:
    """The same with a tokenizer that puts special tokens around each text."""
    tokenizer = copy.deepcopy(processor.tokenizer)
    special = [("</s>", tokenizer.bos_token_id), ("<unk>", tokenizer.unk_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(template, special_tokens=special)
    return GillProcessor(processor.image_processor, tokenizer, 2, processor.img_tokens, **kwargs)


def test_bos_comes_once_and_eos_never_stands_within_a_prompt(processor):
    with_bos, with_both = with_template(processor, "</s> $A"), with_template(processor, "</s> $A <unk>")
    assert with_both.tokenizer("a cat").input_ids[-1] == with_both.tokenizer.unk_token_id
    for prompt in ("a cat", [PHOTO, "a cat", PHOTO, "the dog"], ["a", " cat"]):
        ids = with_both([prompt])["input_ids"]
        assert torch.equal(ids, with_bos([prompt])["input_ids"])
        assert ids.tolist()[0].count(processor.tokenizer.bos_token_id) == 1
    assert torch.equal(with_bos("a cat", add_special_tokens=False)["input_ids"], processor("a cat")["input_ids"])
    assert with_bos("a cat")["input_ids"][0].tolist() == with_bos.tokenizer("a cat").input_ids


def test_a_chat_template_that_writes_bos_does_not_give_two(processor):
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    other = with_template(processor, "</s> $A", chat_template=template)
    chat = [{"role": "user", "content": "a cat"}]
    for batch in (other([chat]), other.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")):
        assert torch.equal(batch["input_ids"], other("a cat")["input_ids"])
    assert torch.equal(other("</s>a cat")["input_ids"], other("a cat")["input_ids"])


def test_a_template_that_does_not_take_the_messages_is_named(processor):
    template = "{{ raise_exception('roles must alternate') }}"
    other = GillProcessor(
        processor.image_processor, processor.tokenizer, 2, processor.img_tokens, chat_template=template
    )
    with pytest.raises(ValueError, match=r"Prompt 1: the chat template does not take these messages \(roles must"):
        other(["a cat", [{"role": "user", "content": "a cat"}]])


class WordTokenizer(PythonBackend):
    """A tokenizer written in Python, which skips no special tokens but those that it knows by name."""

    def __init__(self, **kwargs):
        self.words = ["<pad>", "<unk>", "a", "cat"]
        super().__init__(pad_token="<pad>", unk_token="<unk>", **kwargs)

    vocab_size = property(lambda self: len(self.words))

    def get_vocab(self):
        return {**{word: i for i, word in enumerate(self.words)}, **self.added_tokens_encoder}

    def _tokenize(self, text, **kwargs):
        return text.split()

    def _convert_token_to_id(self, token):
        return self.words.index(token) if token in self.words else 1

    def _convert_id_to_token(self, index):
        return self.words[index]


@pytest.mark.parametrize("kind", ("rust", "python", "python, saved before"))
def test_a_streamer_that_skips_special_tokens_prints_no_image_tokens(processor, kind):
    tokenizer = copy.deepcopy(processor.tokenizer) if kind == "rust" else WordTokenizer()
    if kind == "python":
        GillProcessor.extend_tokenizer(tokenizer, processor.img_tokens)
    elif kind != "rust":
        tokenizer.add_special_tokens({"cls_token": "<|image|>"})
        tokenizer.add_tokens(processor.img_tokens, special_tokens=True)
    other = GillProcessor(processor.image_processor, tokenizer, 2, processor.img_tokens)
    ids = [*tokenizer("a cat", add_special_tokens=False).input_ids, *other.image_output_token_ids, other.image_token_id]
    for decoder in (other, other.tokenizer):
        printed: list[str] = []
        streamer = TextStreamer(decoder, skip_special_tokens=True)
        streamer.on_finalized_text = lambda text, stream_end=False, printed=printed: printed.append(text)
        for i in ids:
            streamer.put(torch.tensor([i]))
        streamer.end()
        assert "".join(printed).strip() == "a cat"


def test_words_that_the_tokenizer_does_not_know_are_mentioned_once(processor, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("modeling_gill"), "propagate", True)
    tokenizer = GillProcessor.extend_tokenizer(WordTokenizer(), processor.img_tokens)
    pipe = GillProcessor(processor.image_processor, tokenizer, 2, processor.img_tokens)
    pipe("a cat <unk>")
    assert not caplog.records
    pipe(["a cat", "a zebra and a cat"])
    pipe("a giraffe")
    (record,) = caplog.records
    assert "does not know 'zebra', 'and', and the model reads <unk> instead" in record.getMessage()


# --- strangers -------------------------------------------------------------------------------------------------------


def test_a_processor_limits_where_images_come_from(processor, tmp_path):
    path = tmp_path / "photo.png"
    PHOTO.save(path)
    closed = GillProcessor(
        processor.image_processor,
        processor.tokenizer,
        2,
        processor.img_tokens,
        allowed_image_sources=("memory", "data"),
    )
    named = (path, {"path": str(path)}, {"type": "image", "path": str(path)}, path.as_uri(), "http://127.0.0.1:1/a.png")
    for source in named:
        for prompt in ([["a cat", source]], [source] if isinstance(source, (Path, dict)) else [[source]]):
            with pytest.raises(ValueError, match=r"Prompt 0.*allowed image sources are: memory, data"):
                closed(prompt)
    chat = [{"role": "user", "content": [{"type": "image", "path": str(path)}]}]
    with pytest.raises(ValueError, match="allowed image sources are: memory, data"):
        closed.apply_chat_template(chat, tokenize=True, return_dict=True)
    # Nobody learns whether a file exists.
    for text in (str(path), str(path) + "x.png"):
        assert "pixel_values" not in closed([[text, "a cat"]])
    assert "pixel_values" in closed([[PHOTO, "a cat"]])
    assert "pixel_values" in closed([[path, "a cat"]], allowed_image_sources=["file"])
    closed.save_pretrained(tmp_path / "saved")
    assert GillProcessor.from_pretrained(tmp_path / "saved").allowed_image_sources == ["memory", "data"]
    with pytest.raises(ValueError, match=r"Unknown image sources \['web'\]"):
        processor("a cat", allowed_image_sources=["web"])


def test_a_processor_limits_the_images_of_a_call(processor):
    limits = ImageLimits(max_images=2)
    processor([[PHOTO, "a cat"], [PHOTO]], image_limits=limits)
    with pytest.raises(ValueError, match=r"Prompt 1, piece 1: .*3 images, more than the limit of 2"):
        processor([[PHOTO, "a cat"], [PHOTO, PHOTO]], image_limits=limits)


def test_base64_of_a_chat_part_may_be_bytes_or_a_data_uri_in_capitals(processor):
    file = io.BytesIO()
    PHOTO.save(file, "PNG")
    encoded = base64.b64encode(file.getvalue())
    expected = processor([[PHOTO]])["pixel_values"]
    for value in (encoded, encoded.decode(), f"DATA:image/png;base64,{encoded.decode()}"):
        assert torch.equal(processor([[{"type": "image", "base64": value}]])["pixel_values"], expected)
    with pytest.raises(ValueError, match="its 'base64' is 5; expected a string"):
        processor([[{"type": "image", "base64": 5}]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "`images` is empty"),
        ({"images": [[], []]}, "`images` is empty"),
        ({"text": {"a cat": 1}}, "`text` must be a string or a list"),
        ({"prompt": "a cat", "truncation": True, "max_length": 0}, "`max_length` must be a positive integer, got 0"),
        (
            {"prompt": "a cat", "truncation": True, "max_length": "3"},
            "`max_length` must be a positive integer, got '3'",
        ),
        ({"prompt": "a cat", "pad_to_multiple_of": 0}, "`pad_to_multiple_of` must be a positive integer, got 0"),
    ],
)
def test_an_argument_that_cannot_work_is_named_with_what_was_expected(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_a_string_of_numpy_in_an_array_without_dimensions_is_a_prompt(processor):
    assert torch.equal(processor(np.array("a cat"))["input_ids"], processor("a cat")["input_ids"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_visual_tokens": 0}, "`num_visual_tokens` must be a positive integer, got 0"),
        ({"num_visual_tokens": "2"}, "`num_visual_tokens` must be a positive integer, got '2'"),
        ({"img_tokens": "[IMG0]"}, "`img_tokens` must be a list of one or more different tokens"),
        ({"img_tokens": []}, "`img_tokens` must be a list of one or more different tokens"),
        ({"img_tokens": ["[IMG0]", "[IMG0]"]}, "`img_tokens` must be a list of one or more different tokens"),
        ({"split_image_tokens": "no"}, "`split_image_tokens` must be True, False or None, got 'no'"),
        ({"truncate_text": "no"}, "`truncate_text` must be True, False or None, got 'no'"),
    ],
)
def test_a_configuration_of_a_processor_with_wrong_values_is_refused(processor, tmp_path, fields, message):
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ValueError, match=message):
        GillProcessor.from_pretrained(tmp_path)
