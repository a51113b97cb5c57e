"""Records become the tokens, labels and images of DreamLLM's authors, without the faults of their code."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small_model import small_processor
from training_gill.record_collator import RecordCollator, target_image
from training_gill.record_encoding import RecordEncoder
from training_gill.records import (
    PairRecord,
    RecordError,
    RecordImage,
    inside_folder,
    read_conversation,
    read_document,
    read_pair,
)


@pytest.fixture
def find(dream_world):
    """The images of the seeded world by the stem of their name, as they are found in a shard."""
    return lambda name: dream_world / "pictures" / f"{Path(name).stem}.png"


def example(sample, index, find):
    kind = sample["kind"]
    if kind in ("text_to_image", "image_to_text"):
        record = PairRecord(RecordImage(find(f"{sample['image']:02d}.png"), "its image"), sample["text"])
        return {"index": index, "name": f"record {index}", "record": record, "direction": kind}
    if kind == "conversation":
        record = read_conversation(sample["record"], find)
    else:
        record = read_document(sample.get("record", sample), find, instructed=kind == "instruct")
    return {"index": index, "name": f"record {index}", "record": record, "direction": "both"}


def examples(samples, find):
    return [example(sample, index, find) for index, sample in enumerate(samples)]


def as_released(ids, processor):
    """The run's own ids as the placeholder that the release has in their place."""
    runs = torch.isin(ids, torch.tensor(processor.image_output_token_ids))
    return ids.masked_fill(runs, processor.image_token_id)


def document(texts, images, **fields):
    info = [{"image_name": f"{name:02d}.jpg", "matched_text_index": index} for name, index in images]
    return {"text_list": texts, "image_info": info, **fields}


def conversation(*values, **fields):
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"conversations": turns, **fields}


@pytest.mark.parametrize("number", range(6))
def test_batches_are_those_of_the_authors(number, dream_processor, dream_cases, dream_arrays, find):
    case = dream_cases["train"][number]
    collator = RecordCollator(dream_processor, 16, case.get("max_length", 2048))
    batch = collator(examples(case["samples"], find))
    assert not batch["skipped"]
    batch["input_ids"] = as_released(batch["input_ids"], dream_processor)
    for name in ("input_ids", "labels", "attention_mask"):
        assert np.array_equal(batch[name], dream_arrays[f"t{number}.{name}"])
    for own, theirs in (("pixel_values", "images"), ("target_images", "images_dm")):
        assert (own in batch) == (f"t{number}.{theirs}" in dream_arrays)
        if own in batch:
            assert np.array_equal(batch[own], dream_arrays[f"t{number}.{theirs}"])


def test_left_padding_moves_rows_and_nothing_else(dream_processor, dream_cases, find):
    samples = examples(dream_cases["train"][4]["samples"], find)
    right = RecordCollator(dream_processor, 16)(samples)
    left = RecordCollator(dream_processor, 16, padding_side="left")(samples)
    for name in ("input_ids", "labels"):
        for one, other, mask in zip(right[name], left[name], right["attention_mask"], strict=True):
            assert one[mask.bool()].tolist() == other[-int(mask.sum()) :].tolist()
    assert left["attention_mask"][:, -1].all()
    assert torch.equal(left["target_images"], right["target_images"])


# --- images that cannot be read --------------------------------------------------------------------------------------


def test_an_image_of_a_document_that_cannot_be_read_takes_its_tokens_with_it(dream_processor, find):
    collator = RecordCollator(dream_processor, 16)
    texts = ["first open the door .", "second cut the bread .", "the house is old ."]
    broken = read_document(document(texts, [(3, 0), (99, 1), (5, 1)]), find)
    whole = read_document(document(texts, [(3, 0), (5, 1)]), find)
    later = read_document(document(["a green tree"], [(7, 0)]), find)
    batches = [
        collator([{"index": i, "name": f"record {i}", "record": r} for i, r in enumerate((first, later))])
        for first in (broken, whole)
    ]
    for name in ("input_ids", "labels", "pixel_values", "target_images"):
        assert torch.equal(batches[0][name], batches[1][name])
    assert batches[0]["skipped"][0].startswith("record 0: without 99.jpg: ")
    assert not batches[1]["skipped"]


def test_a_pair_or_conversation_whose_image_cannot_be_read_is_left_out(dream_processor, find):
    records = [
        PairRecord(RecordImage(find("99.png"), "99.png"), "a dog"),
        read_conversation(conversation("<image> what is this ?", "a dog", image="99.png"), find),
        read_document(document(["a green tree"], [(7, 0)]), find),
    ]
    collator = RecordCollator(dream_processor, 16)
    batch = collator([{"index": i, "name": f"record {i}", "record": r} for i, r in enumerate(records)])
    assert batch["index"].tolist() == [2]
    assert len(batch["pixel_values"]) == len(batch["target_images"]) == 1
    assert [message.split(":")[0] for message in batch["skipped"]] == ["record 0", "record 1"]
    assert "there is no such file" in batch["skipped"][0]


def test_an_image_that_the_image_processor_does_not_take_is_one_that_cannot_be_read(dream_processor, find, monkeypatch):
    own = type(dream_processor.image_processor).__call__

    def refuse_wide(self, images, **kwargs):
        if images[0].width > 40:
            raise KeyError("too wide")
        return own(self, images, **kwargs)

    monkeypatch.setattr(type(dream_processor.image_processor), "__call__", refuse_wide)
    texts = ["a dog", "a tree", "a house"]
    records = [read_document(document(texts, images), find) for images in ([(2, 0), (1, 1), (4, 2)], [(2, 0), (4, 2)])]
    collator = RecordCollator(dream_processor, 16)
    refused, without = (collator([{"index": 0, "name": "record 0", "record": record}]) for record in records)
    assert torch.equal(refused["input_ids"], without["input_ids"])
    assert torch.equal(refused["target_images"], without["target_images"])
    assert refused["skipped"] == ["record 0: without 01.jpg: the image processor does not take it ('too wide')"]


def test_of_a_batch_that_cannot_be_read_nothing_is_left(dream_processor, find):
    batch = RecordCollator(dream_processor, 16)([{"index": 0, "name": "record 0", "problem": "no JSON"}])
    assert batch["index"].tolist() == [] and batch["input_ids"].shape[0] == 0
    assert batch["skipped"] == ["record 0: no JSON"]
    assert "pixel_values" not in batch and "target_images" not in batch


def test_an_image_is_opened_once_and_only_if_it_fits(dream_processor, find):
    encoder = RecordEncoder(dream_processor, 48)
    record = read_document(document(["a dog", "a tree", "a house"], [(1, 0), (2, 1), (3, 2)]), find)
    opened = []

    def open_image(image, reads, draws):
        assert reads and draws
        opened.append(image.name)
        return Image.new("RGB", (8, 8))

    encoded = encoder.encode(record, "both", open_image)
    assert opened == ["01.jpg"]
    assert len(encoded.images_read) == len(encoded.images_drawn) == 1


# --- documents -------------------------------------------------------------------------------------------------------


def tokens_of(collator, record, direction="both"):
    batch = collator([{"index": 0, "name": "record", "record": record, "direction": direction}])
    assert not batch["skipped"], batch["skipped"]
    return batch["input_ids"][0].tolist(), batch["labels"][0].tolist()


def test_two_images_after_one_sentence_stand_side_by_side(dream_processor, find):
    collator = RecordCollator(dream_processor, 16)
    ids, _ = tokens_of(collator, read_document(document(["a dog", "a tree"], [(2, 1), (1, 1)]), find))
    encoder = collator.encoder
    both = encoder.image_drawn + encoder.image_read
    text = dream_processor.tokenizer("a dog a tree").input_ids
    assert ids == text + both + both + encoder.eos


@pytest.mark.parametrize("instructed", (False, True))
def test_a_document_ends_before_the_first_image_that_does_not_fit(instructed, dream_processor, find):
    fields = document(["a dog", "a tree"], [(1, 0)], instruction="draw me a dog")
    record = read_document(fields, find, instructed=instructed)
    whole, _ = tokens_of(RecordCollator(dream_processor, 16), record)
    eos, image = dream_processor.tokenizer.eos_token_id, RecordEncoder(dream_processor, 64).image_drawn
    text = dream_processor.tokenizer("a tree", add_special_tokens=False).input_ids
    # The authors count BOS of an instructed document twice.
    exact = len(whole) + instructed
    assert tokens_of(RecordCollator(dream_processor, 16, exact), record)[0] == whole
    shorter, _ = tokens_of(RecordCollator(dream_processor, 16, exact - 1), record)
    assert shorter == [*whole[: -1 - len(text)], eos]
    without, labels = tokens_of(RecordCollator(dream_processor, 16, exact - len(text) - 1), record)
    assert without == [*whole[: whole.index(image[0])], eos]
    assert labels[-1] == eos


def test_a_document_of_which_nothing_fits_is_left_out(dream_processor, find):
    record = read_document(document(["the dog runs to the yellow car on the beach at night . " * 4], []), find)
    batch = RecordCollator(dream_processor, 16, 40)([{"index": 0, "name": "record 0", "record": record}])
    assert batch["skipped"] == ["record 0: nothing of it fits into `max_length` 40"]


def test_documents_can_be_only_read_or_only_drawn(dream_processor, find):
    collator = RecordCollator(dream_processor, 16)
    record = read_document(document(["a dog"], [(1, 0)]), find)
    text = dream_processor.tokenizer("a dog").input_ids
    encoder = collator.encoder
    assert tokens_of(collator, record, "text_to_image")[0] == text + encoder.image_drawn + encoder.eos
    ids, labels = tokens_of(collator, record, "image_to_text")
    assert ids == text + encoder.image_read + encoder.eos
    assert labels == text + [-100] * len(encoder.image_read) + encoder.eos


# --- conversations ---------------------------------------------------------------------------------------------------


def test_a_turn_with_both_markers_is_there_once(dream_processor, find):
    collator = RecordCollator(dream_processor, 16)
    record = read_conversation(conversation("like <image> but red : <dream>", "Here you are .", image="05.png"), find)
    ids, labels = tokens_of(collator, record)
    encoder, tokenizer = collator.encoder, dream_processor.tokenizer
    assert ids.count(encoder.image_read[0]) == 2 and ids.count(encoder.image_drawn[0]) == 1
    system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    system += "detailed, and polite answers to the user's questions. "
    pieces = [f"{system}USER: like ", " but red : ", " ASSISTANT: Here you are ."]
    first, second, third = (tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces)
    read, both = encoder.image_read, encoder.image_drawn + encoder.image_read
    assert ids == encoder.bos + first + read + second + both + third + encoder.eos
    answer = tokenizer("Here you are .", add_special_tokens=False).input_ids + encoder.eos
    assert labels == [-100] * (len(ids) - len(answer)) + answer


def test_a_dialogue_that_begins_with_the_assistant_loses_that_turn(dream_processor, find):
    turns = conversation("is the house old ?", "the house is old .")
    late = {"conversations": [{"from": "gpt", "value": "hello"}, *turns["conversations"]]}
    collator = RecordCollator(dream_processor, 16)
    assert tokens_of(collator, read_conversation(late, find)) == tokens_of(collator, read_conversation(turns, find))


def test_the_image_of_a_turn_that_is_lost_is_lost_with_it(find):
    turns = conversation("is the house old ?", "the house is old .")["conversations"]
    record = read_conversation(
        {"image": "01.png", "conversations": [{"from": "gpt", "value": "<image>"}, *turns]}, find
    )
    assert record.images == ()


def test_a_conversation_is_cut_before_an_image_that_does_not_fit_and_keeps_what_precedes_it(dream_processor, find):
    record = read_conversation(conversation("draw me a dog", "Here you are . <dream> yes", image="05.png"), find)
    whole, labels = tokens_of(RecordCollator(dream_processor, 16), record)
    encoder = RecordEncoder(dream_processor, 64)
    begin = whole.index(encoder.image_drawn[0])
    end = begin + len(encoder.image_drawn) + len(encoder.image_read)
    for max_length, kept in (
        (end, end),
        (end - 1, begin),
        (begin + 1, begin),
        (begin - 2, begin - 2),
        (end + 1, end + 1),
    ):
        ids, cut_labels = tokens_of(RecordCollator(dream_processor, 16, max_length), record)
        assert (ids, cut_labels) == (whole[:kept], labels[:kept])


def test_images_of_several_markers_come_in_their_order(dream_processor, find):
    fields = conversation("<image> and <image> ?", "no , <dream>", image=["01.png", "02.png", "03.png"])
    record = read_conversation(fields, find)
    encoder = RecordEncoder(dream_processor, 256)
    encoded = encoder.encode(record, "both", lambda image, *_: image.name)
    assert encoded.images_read == ["01.png", "02.png", "03.png"]
    assert encoded.images_drawn == ["03.png"]


def test_a_template_that_rewrites_what_was_said_is_refused(dream_processor, find):
    template = "{% for message in messages %}{{ loop.length }} {{ message.content }}</s>{% endfor %}"
    record = read_conversation(conversation("is it old ?", "yes .", "how old ?", "very ."), find)
    own = dream_processor.chat_template
    dream_processor.chat_template = template
    try:
        with pytest.raises(ValueError, match="chat template of the processor does not write"):
            RecordCollator(dream_processor, 16)([{"index": 0, "name": "record 0", "record": record}])
    finally:
        dream_processor.chat_template = own


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ("text_to_image", "image_to_text"))
def test_of_a_pair_that_is_too_long_the_caption_is_cut(direction, dream_processor, find):
    record = PairRecord(RecordImage(find("01.png"), "01.png"), "the dog runs on the beach at night " * 9)
    ids, _ = tokens_of(RecordCollator(dream_processor, 16, 40), record, direction)
    encoder = RecordEncoder(dream_processor, 40)
    image = encoder.image_drawn if direction == "text_to_image" else encoder.image_read
    assert len(ids) == 40 and ids[-1:] == encoder.eos
    begin = ids.index(image[0])
    assert ids[begin : begin + len(image)] == image


def test_a_pair_takes_either_direction_by_a_fair_coin_each_time(dream_processor, find):
    record = PairRecord(RecordImage(find("01.png"), "01.png"), "a dog")

    def draws(seed, indices):
        collator = RecordCollator(dream_processor, 16, seed=seed)
        batch = collator([{"index": i, "name": "record", "record": record, "direction": "both"} for i in indices])
        return torch.isin(batch["input_ids"], torch.tensor(dream_processor.image_output_token_ids)).any(1).tolist()

    drawn = draws(0, range(60))
    assert 18 < sum(drawn) < 42
    assert drawn[40:] == draws(0, range(40, 60))
    assert drawn != draws(1, range(60))


def test_small_images_are_left_out_and_not_reported_as_unreadable(dream_processor, find):
    image = RecordImage(find("01.png"), "01.png")  # 48 x 40 pixels
    records = [PairRecord(image, "a dog", min_image_side=side) for side in (40, 41)]
    batch = RecordCollator(dream_processor, 16)(
        [{"index": i, "name": "record", "record": record, "direction": "both"} for i, record in enumerate(records)]
    )
    assert batch["index"].tolist() == [0] and batch["num_too_small"] == 1 and not batch["skipped"]


@pytest.mark.parametrize("caption", ("", " \n "))
def test_a_pair_without_a_caption_is_left_out(caption, dream_processor, find):
    record = PairRecord(RecordImage(find("01.png"), "01.png"), caption)
    batch = RecordCollator(dream_processor, 16)([{"index": 0, "name": "record 0", "record": record}])
    assert "expected text" in batch["skipped"][0]


@pytest.mark.parametrize("token", ("</s>", "<s>", "<im_patch>", "<dream_start>", "<image>", "[PAD]"))
def test_a_text_with_a_special_token_in_it_is_left_out(token, dream_processor, find):
    records = [
        PairRecord(RecordImage(find("01.png"), "01.png"), f"a {token} dog"),
        read_document(document([f"a {token} dog"], []), find),
        read_document(document(["a dog"], [], instruction=f"draw {token}"), find, instructed=True),
    ]
    if token != "<image>":
        records.append(read_conversation(conversation(f"a {token} dog", "yes"), find))
    batch = RecordCollator(dream_processor, 16)(
        [{"index": i, "name": "record", "record": record} for i, record in enumerate(records)]
    )
    assert len(batch["skipped"]) == len(records)
    assert all(repr(token) in message for message in batch["skipped"])


def test_texts_that_would_keep_a_tokenizer_busy_for_minutes_are_left_out(dream_processor, find):
    records = [
        PairRecord(RecordImage(find("01.png"), "01.png"), "a " * 600_000),
        read_document(document(["a"] * 600_000, []), find),
        read_conversation(conversation(*["a " * 200_000] * 4), find),
    ]
    batch = RecordCollator(dream_processor, 16)(
        [{"index": i, "name": "record", "record": record} for i, record in enumerate(records)]
    )
    assert len(batch["skipped"]) == 3
    assert all("expected at most 1,000,000" in message for message in batch["skipped"])


def test_a_document_without_any_of_its_many_images_is_given_up(dream_processor, find):
    record = read_document(document(["a dog"], [(99, 0)] * 2_000), find)
    batch = RecordCollator(dream_processor, 16)([{"index": 0, "name": "record 0", "record": record}])
    assert batch["skipped"][0].startswith("record 0: more than 100 of its images cannot be read")


def test_the_text_of_an_image_that_is_dropped_precedes_the_next_one(dream_processor, find):
    collator = RecordCollator(dream_processor, 16)
    texts = ["a dog", "a tree", "a house"]
    expected = tokens_of(collator, read_document(document(texts, [(3, 2)]), find))
    batch = collator(
        [{"index": 0, "name": "record 0", "record": read_document(document(texts, [(99, 0), (3, 2), (98, 1)]), find)}]
    )
    assert (batch["input_ids"][0].tolist(), batch["labels"][0].tolist()) == expected
    assert [message.split(": ")[1] for message in batch["skipped"]] == ["without 99.jpg", "without 98.jpg"]


def test_a_lone_surrogate_is_left_out(dream_processor, find):
    record = read_document(document(["a \ud800 dog"], []), find)
    batch = RecordCollator(dream_processor, 16)([{"index": 0, "name": "record", "record": record}])
    assert "surrogate" in batch["skipped"][0]


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ((48, 40), (36, 52), (16, 16), (5, 7)))
def test_targets_are_scaled_to_the_shorter_side_and_cut_in_the_middle(size):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    target = target_image(image, 16)
    assert target.shape == (3, 16, 16) and target.dtype == torch.float32
    assert float(target.min()) >= -1 and float(target.max()) <= 1
    if size == (16, 16):
        assert torch.equal(((target + 1) * 127.5).round().byte().permute(1, 2, 0), torch.tensor(np.asarray(image)))


def test_targets_are_mirrored_at_random_only_where_asked(dream_processor, find):
    record = read_document(document(["a dog"], [(1, 0)]), find)
    samples = [{"index": i, "name": "record", "record": record} for i in range(40)]
    plain = RecordCollator(dream_processor, 16)(samples)["target_images"]
    assert all(torch.equal(target, plain[0]) for target in plain)
    mirrored = RecordCollator(dream_processor, 16, random_flip=True)(samples)["target_images"]
    flips = [torch.equal(target, plain[0].flip(2)) for target in mirrored]
    assert 8 < sum(flips) < 32
    assert all(flip or torch.equal(target, plain[0]) for flip, target in zip(flips, mirrored, strict=True))


def test_an_image_that_is_nearly_a_line_is_not_blown_up(dream_processor, tmp_path):
    Image.new("RGB", (3000, 4)).save(tmp_path / "line.png")
    record = PairRecord(RecordImage(tmp_path / "line.png", "line.png"), "a line")
    batch = RecordCollator(dream_processor, 512)(
        [{"index": 0, "name": "record 0", "record": record, "direction": "text_to_image"}]
    )
    assert "3000 x 4 pixels" in batch["skipped"][0]


# --- GILL ------------------------------------------------------------------------------------------------------------


def test_in_gill_a_run_opens_itself_and_is_predicted_at_its_first_token():
    processor = small_processor(num_image_output_tokens=3, num_visual_tokens=2)
    encoder = RecordEncoder(processor, 64)
    assert encoder.image_read == [processor.image_token_id] * 2
    assert encoder.image_drawn == processor.image_output_token_ids
    record = read_document(document(["a dog", "a tree"], [(1, 0)]), lambda name: name)
    encoded = encoder.encode(record, "text_to_image", lambda image, *_: image.source)
    first, second = (processor.tokenizer(text, add_special_tokens=False).input_ids for text in ("a dog", "a tree"))
    assert encoded.input_ids == encoder.bos + first + encoder.image_drawn + second + encoder.eos
    run = [encoder.image_drawn[0], -100, -100]
    assert encoded.labels == encoder.bos + first + run + second + encoder.eos


def test_conversations_follow_the_template_of_the_processor():
    processor = small_processor(num_image_output_tokens=3, num_visual_tokens=2)
    encoder = RecordEncoder(processor, 64)
    record = read_conversation(conversation("<image>what ?", "a dog", "red ?", "no", image="01.png"), lambda name: name)
    encoded = encoder.encode(record, "both", lambda image, *_: image.source)
    labelled = [label for label in encoded.labels if label != -100]
    assert processor.tokenizer.decode(labelled) == " a dog no"
    assert encoded.images_read == ["01.png"]


@pytest.mark.parametrize("max_length", (0, 30))
def test_a_length_that_leaves_no_room_beside_an_image_is_refused(max_length, dream_processor):
    RecordEncoder(dream_processor, 31)  # BOS, 10 of an image drawn, 18 of the same read, a word, EOS
    with pytest.raises(ValueError, match=f"`max_length` is {max_length}; expected at least 31"):
        RecordEncoder(dream_processor, max_length)


# --- forms -----------------------------------------------------------------------------------------------------------

GOOD_DOCUMENT = {"text_list": ["a"], "image_info": [{"image_name": "1.jpg", "matched_text_index": 0}]}
GOOD_CHAT = {
    "conversations": [{"from": "human", "value": "a <image>"}, {"from": "gpt", "value": "b"}],
    "image": "1.png",
}


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"text_list": None}, "`text_list` is None; expected a list"),
        ({"text_list": "a"}, "`text_list` is 'a'; expected a list"),
        ({"text_list": ["a", 3]}, r"`text_list\[1\]` is 3; expected text"),
        ({"image_info": {}}, "`image_info` is {}; expected a list"),
        ({"image_info": ["1.jpg"]}, r"`image_info\[0\]` is '1.jpg'; expected an object"),
        ({"image_info": [{"image_name": "", "matched_text_index": 0}]}, "expected the name of a file"),
        ({"image_info": [{"image_name": 7, "matched_text_index": 0}]}, "expected the name of a file"),
        ({"image_info": [{"image_name": "1.jpg"}]}, "matched_text_index` is None; expected the index of a text"),
        (
            {"image_info": [{"image_name": "1.jpg", "matched_text_index": 1}]},
            "is 1; expected the index of one of the 1",
        ),
        ({"image_info": [{"image_name": "1.jpg", "matched_text_index": -1}]}, "is -1; expected"),
        ({"image_info": [{"image_name": "1.jpg", "matched_text_index": True}]}, "is True; expected"),
        ({"image_info": [{"image_name": "1.jpg", "matched_text_index": 0.0}]}, "is 0.0; expected"),
    ),
)
def test_a_document_of_another_form_is_named(change, message):
    assert read_document(GOOD_DOCUMENT, str).texts == ("a",)
    with pytest.raises(RecordError, match=message):
        read_document({**GOOD_DOCUMENT, **change}, str)


@pytest.mark.parametrize("fields", (None, [], "text", 3))
def test_a_record_that_is_no_object_is_named(fields):
    for read in (read_document, read_conversation, read_pair):
        with pytest.raises(RecordError, match="expected a JSON object"):
            read(fields, str)


def test_an_instructed_document_needs_an_instruction():
    for fields in (GOOD_DOCUMENT, {**GOOD_DOCUMENT, "instruction": " "}, {**GOOD_DOCUMENT, "instruction": 3}):
        with pytest.raises(RecordError, match=r"`instruction`.*; expected text"):
            read_document(fields, str, instructed=True)


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"conversations": None}, "`conversations` is None; expected a list"),
        ({"conversations": []}, "no turn of the user"),
        ({"conversations": [{"from": "gpt", "value": "b"}]}, "no turn of the user"),
        ({"conversations": ["hello"]}, r"`conversations\[0\]` is 'hello'"),
        ({"conversations": [{"from": "system", "value": "b"}]}, "from` is 'system'; expected one of human"),
        ({"conversations": [{"from": ["human"], "value": "b"}]}, "expected one of human"),
        ({"conversations": [{"from": "human", "value": 3}]}, "value` is 3; expected text"),
        ({"conversations": [{"from": "human"}]}, "value` is None; expected text"),
        ({"image": None}, "hold 1 of <image> and <dream>, and `image` names 0"),
        ({"image": ["1.png", "2.png"]}, "hold 1 of <image> and <dream>, and `image` names 2"),
        ({"image": 3}, "`image` is 3; expected the path of a file"),
        ({"image": ""}, "`image` is ''; expected the path of a file"),
        ({"conversations": [{"from": "human", "value": "a"}]}, "no text of `conversations` holds <image>"),
    ),
)
def test_a_conversation_of_another_form_is_named(change, message):
    assert len(read_conversation(GOOD_CHAT, str).marked_images()) == 1
    with pytest.raises(RecordError, match=message):
        read_conversation({**GOOD_CHAT, **change}, str)


@pytest.mark.parametrize(
    "name", ("/etc/x.png", "../x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", "~/x.png", "~a/x.png")
)
def test_no_image_outside_of_its_folder_is_named(name):
    with pytest.raises(RecordError, match="expected a relative path inside"):
        inside_folder(name)


@pytest.mark.parametrize("name", ("http://host/x.png", "file:///x.png", "data:image/png;base64,xx", "x\0.png"))
def test_no_url_is_the_image_of_a_record(name):
    with pytest.raises(RecordError, match="expected a relative path inside"):
        inside_folder(name)


@pytest.mark.parametrize("name", ("x.png", "a/x.png", "a/../x.png", "./x.png", "..x.png", "a b/100%.png", " x.png"))
def test_names_inside_of_the_folder_are_taken_without_detours(name):
    assert inside_folder(name) == name.strip().replace("a/../", "").removeprefix("./")


def test_records_cannot_be_changed(find):
    record = read_document(GOOD_DOCUMENT, find)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.texts = ()
