"""What the collator makes of examples."""

import numpy as np
import pytest
import torch
from PIL import Image

from training_gill.collator import CaptionedImageCollator


def examples_of(case, images):
    return [
        {"index": i, "name": f"example {i}", "key": str(i), "image": images[p], "caption": caption}
        for i, (p, caption) in enumerate(zip(case["images"], case["captions"], strict=True))
    ]


def rows_of(batch, which, processor):
    reads = (batch["input_ids"] == processor.image_token_id).any(1)
    rows = reads if which == "captioning" else ~reads
    return [
        ids[: int(mask.sum())].tolist()
        for ids, mask in zip(batch["input_ids"][rows], batch["attention_mask"][rows], strict=True)
    ]


@pytest.mark.parametrize("number", (0, 1))
def test_captions_become_the_authors_tokens_and_the_img_tokens_survive_the_cut(
    number, golden_processor, golden_cases, gill_arrays, images
):
    case = golden_cases["train"][number]
    batch = CaptionedImageCollator(golden_processor, case["max_len"], packing=0.0)(examples_of(case, images))
    lengths = gill_arrays[f"t{number}.lens"]
    expected = [row[:length].tolist() for row, length in zip(gill_arrays[f"t{number}.ids"], lengths, strict=True)]
    assert rows_of(batch, "text", golden_processor) == expected
    k, r = golden_processor.num_visual_tokens, len(golden_processor.image_output_token_ids)
    placeholders = [golden_processor.image_token_id] * k
    assert rows_of(batch, "captioning", golden_processor) == [placeholders + row[:-r] for row in expected]


def test_a_batch_is_padded_to_its_longest_row_only(golden_processor, golden_cases, images):
    case = golden_cases["train"][1]
    batch = CaptionedImageCollator(golden_processor, 32, packing=0.0)(examples_of(case, images))
    assert batch["input_ids"].shape[1] == int(batch["attention_mask"].sum(1).max())


def test_packed_rows_hold_two_examples_of_which_the_second_has_no_bos(golden_processor, golden_cases, images):
    case = golden_cases["train"][1]
    bos = golden_processor.tokenizer.bos_token_id
    batch = CaptionedImageCollator(golden_processor, 32, packing=1.0)(examples_of(case, images))
    for which in ("captioning", "text"):
        rows = rows_of(batch, which, golden_processor)
        assert len(rows) == 2
        assert all(row.count(bos) == 1 for row in rows)
    first_img = golden_processor.image_output_token_ids[0]
    text = ~(batch["input_ids"] == golden_processor.image_token_id).any(1)
    for ids, labels in zip(batch["input_ids"][text].tolist(), batch["labels"][text].tolist(), strict=True):
        end = ids.index(first_img) + 1
        assert labels[:end] == ids[:end]
        assert set(labels[end:]) == {-100}


def test_other_captions_stand_before_a_caption_and_are_neither_drawn_nor_predicted(
    golden_processor, golden_cases, images
):
    examples = examples_of(golden_cases["train"][1], images)
    alone = rows_of(CaptionedImageCollator(golden_processor, 32, packing=0.0)(examples), "text", golden_processor)
    collator = CaptionedImageCollator(golden_processor, 32, packing=0.0, context=4, context_separator="\n")
    batch = collator(examples)
    text = ~(batch["input_ids"] == golden_processor.image_token_id).any(1)
    bos, first_img = golden_processor.tokenizer.bos_token_id, golden_processor.image_output_token_ids[0]
    longer = 0
    for own, row, labels in zip(
        alone, rows_of(batch, "text", golden_processor), batch["labels"][text].tolist(), strict=True
    ):
        before = len(row) - len(own)
        longer += before > 0
        assert row[0] == bos and row[before + 1 :] == own[1:]
        assert row.count(first_img) == row.count(bos) == 1
        if before:
            assert set(labels[: before + 1]) == {-100} and labels[before + 1] == own[1]
            assert golden_processor.tokenizer.decode(row[: before + 1]).endswith("\n")
    assert longer > 0
    assert torch.equal(collator(examples)["input_ids"], batch["input_ids"])


def test_images_stand_behind_other_captions_and_a_caption_that_is_asked_for_is_told_before(
    golden_processor, golden_cases, images
):
    examples = examples_of(golden_cases["train"][1], images)
    collator = CaptionedImageCollator(
        golden_processor, 32, packing=0.0, context=4, context_separator="\n", context_images=0.5, request="draw"
    )
    batch = collator(examples)
    tokenizer, k = golden_processor.tokenizer, golden_processor.num_visual_tokens
    placeholder = tokenizer.decode([golden_processor.image_token_id])
    bos, first_img = tokenizer.bos_token_id, golden_processor.image_output_token_ids[0]
    numbers = {example["caption"]: example["index"] for example in examples}
    shown, asked = [], 0
    for number, row in enumerate(batch["input_ids"][(batch["input_ids"] == first_img).any(1)].tolist()):
        lines = tokenizer.decode(row[row.index(bos) + 1 : row.index(first_img)]).split("\n")
        images_behind = [line.count(placeholder) for line in lines[1:]]
        *before, own = (line.replace(placeholder, "") for line in lines)
        if own.startswith("draw"):
            asked, own = asked + 1, own.removeprefix("draw")
            assert before.pop() == own and images_behind.pop() == 0
        assert numbers[own] == number and number not in [numbers[line] for line in before]
        assert lines[0].count(placeholder) == 0 and {*images_behind} <= {0, k}
        shown += [numbers[line] for line, many in zip(before, images_behind, strict=True) if many]
    assert shown and batch["context_images"].tolist() == shown
    assert asked > 0


def test_an_odd_example_keeps_a_row_to_itself(golden_processor, golden_cases, images):
    case = golden_cases["train"][1]
    batch = CaptionedImageCollator(golden_processor, 32, packing=1.0)(examples_of(case, images)[:3])
    assert [
        row.count(golden_processor.image_output_token_ids[0]) for row in rows_of(batch, "text", golden_processor)
    ] == [2, 1]


def test_the_packing_coin_depends_on_the_examples_and_the_seed_alone(golden_processor, images):
    def packed(seed, order):
        collator = CaptionedImageCollator(golden_processor, 32, 0.5, seed)
        return [collator.coin((i, i + 1), "text") < 0.5 for i in order]

    forward = packed(3, range(0, 2000, 2))
    assert packed(3, reversed(range(0, 2000, 2))) == forward[::-1]
    assert packed(4, range(0, 2000, 2)) != forward
    assert 0.45 < np.mean(forward) < 0.55


def test_each_pass_has_a_coin_of_its_own(golden_processor):
    collator = CaptionedImageCollator(golden_processor, 32, 0.5)
    coins = [
        (collator.coin((i, i + 1), "text") < 0.5, collator.coin((i, i + 1), "captioning") < 0.5) for i in range(200)
    ]
    assert len(set(coins)) == 4


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"image": "/no/such/image.png"}, "image.png"),
        ({"image": b"no image at all"}, "could not be read"),
        ({"caption": "  "}, "caption"),
        ({"caption": None}, "caption"),
        ({"caption": "a [IMG0] within"}, "stands for an image"),
    ],
)
def test_an_example_that_cannot_be_read_is_left_out_and_named(spoilt, said, golden_processor, golden_cases, images):
    examples = examples_of(golden_cases["train"][1], images)
    examples[2] |= spoilt
    batch = CaptionedImageCollator(golden_processor, 32)(examples)
    assert batch["index"].tolist() == [0, 1, 3]
    assert len(batch["pixel_values"]) == 3
    (message,) = batch["skipped"]
    assert "example 2" in message
    assert said in message


def test_a_batch_of_which_nothing_can_be_read_is_empty_and_no_error(golden_processor):
    example = {"index": 0, "name": "only one", "key": "", "image": "/no/such.png", "caption": "a cat"}
    batch = CaptionedImageCollator(golden_processor)([example])
    assert len(batch["index"]) == 0
    assert batch["input_ids"].shape[0] == 0
    assert len(batch["skipped"]) == 1


def test_images_of_any_mode_are_read(golden_processor):
    examples = [
        {"index": i, "name": mode, "key": "", "image": Image.new(mode, (20, 30)), "caption": "a cat"}
        for i, mode in enumerate(("L", "RGBA", "P", "CMYK", "1"))
    ]
    assert torch.isfinite(CaptionedImageCollator(golden_processor)(examples)["pixel_values"]).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_length": 9}, "at least 10"),
        ({"packing": 1.5}, "1.5"),
        ({"context": -1}, "-1"),
        ({"context_images": 1.5}, "1.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, said, golden_processor):
    with pytest.raises(ValueError, match=said):
        CaptionedImageCollator(golden_processor, **options)
