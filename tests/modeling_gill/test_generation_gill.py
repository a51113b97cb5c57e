"""`generate` is transformers' own: whatever way it decodes, it writes the same, with and without images."""

import copy

import pytest
import torch
from PIL import Image
from transformers import DynamicCache, GenerationConfig, LogitsProcessorList
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

from modeling_gill import GillForConditionalGeneration
from modeling_gill.generation_gill import ImgTokenLogitsProcessor
from tests.small_model import small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
OTHER = Image.radial_gradient("L").resize((30, 20)).convert("RGB")
TEXT, ONE_IMAGE, TWO_IMAGES = "the dog runs", [PHOTO, "a cat on a mat"], ["Q: what is", PHOTO, OTHER, "this ? A:"]
OPTIONS = {"do_sample": False, "max_new_tokens": 10, "min_text_tokens": 3, "image_token_scale": 1e5}
IMAGE_FIELDS = ("img_hidden_states", "retrieval_embeds", "conditioning", "decision_logits")


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.fixture(scope="module", params=("opt", "llama", "gpt2"))
def model(request, processor):
    # The rows beyond the text's give the placeholder an embedding, so that the model may write it as a token.
    return small_model(processor, request.param, spare_rows=2)


@pytest.fixture(scope="module")
def opt(processor):
    return small_model(processor)


def generate(model, batch, **options):
    return model.generate(**batch, return_dict_in_generate=True, **{**OPTIONS, **options})


def assert_same_answer(found, expected, tolerance=1e-4):
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert found.img_start_positions.tolist() == expected.img_start_positions.tolist()
    for name in IMAGE_FIELDS:
        torch.testing.assert_close(found[name], expected[name], atol=tolerance, rtol=tolerance)


WAYS = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "one beam": {"num_beams": 1},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
}


@pytest.mark.parametrize("prompt", (TEXT, ONE_IMAGE, TWO_IMAGES), ids=("text", "one image", "two images"))
@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_greedy_decoding_writes_the_same(model, processor, prompt, way):
    batch = processor([prompt])
    for scale in (1.0, 1e5):
        expected = generate(model, batch, image_token_scale=scale)
        assert scale == 1.0 or len(expected.img_batch_indices)
        assert_same_answer(generate(model, batch, image_token_scale=scale, **WAYS[way]), expected)


@pytest.mark.parametrize("prompt", (TEXT, ONE_IMAGE), ids=("text", "one image"))
def test_an_assistant_changes_nothing(model, processor, prompt):
    batch = processor([prompt])
    expected = generate(model, batch)
    for assistant in (copy.deepcopy(model), small_model(processor, "opt", retrieval_dim=4)):
        assert_same_answer(generate(model, batch, assistant_model=assistant), expected)


def test_batches_decode_alike_with_and_without_a_cache(model, processor):
    batch = processor([TEXT, ONE_IMAGE, TWO_IMAGES])
    expected = generate(model, batch)
    for way in ("no cache", "static cache"):
        assert_same_answer(generate(model, batch, **WAYS[way]), expected)


def test_no_cache_means_no_cache(opt, processor):
    assert generate(opt, processor([ONE_IMAGE]), use_cache=False).past_key_values is None


def test_a_compiled_decoding_step_without_graph_breaks_writes_the_same(opt, processor):
    batch = processor([TWO_IMAGES])
    expected = generate(opt, batch)
    compiled = copy.deepcopy(opt)
    compiled.forward = torch.compile(compiled.forward, fullgraph=True, backend="eager")
    assert_same_answer(generate(compiled, batch, cache_implementation="static"), expected)


@pytest.mark.parametrize("continued", ("all images", "no images", "new images", "new ids alone"))
def test_a_chat_goes_on_from_its_cache(model, processor, continued):
    history = processor([ONE_IMAGE])
    options = {"max_new_tokens": 5, "min_text_tokens": 5}
    first = generate(model, history, past_key_values=DynamicCache(), **options)
    turn = processor([["and", OTHER, "this ?"] if continued in ("all images", "new images") else "and this ?"])
    ids = torch.cat([first.sequences, turn["input_ids"][:, 1:]], dim=1)
    images = [batch["pixel_values"] for batch in (history, turn) if "pixel_values" in batch]
    expected = generate(model, {"input_ids": ids, "pixel_values": torch.cat(images)})
    if continued == "new ids alone":
        seen = first.past_key_values.get_seq_length()
        found = generate(
            model,
            {"input_ids": ids[:, seen:], "attention_mask": torch.ones_like(ids)},
            past_key_values=first.past_key_values,
        )
        assert found.sequences.tolist() == expected.sequences[:, seen:].tolist()
        torch.testing.assert_close(found.conditioning, expected.conditioning, atol=1e-4, rtol=1e-4)
        return
    given = {"all images": torch.cat(images), "new images": images[-1], "no images": None}[continued]
    batch = {"input_ids": ids, "pixel_values": given}
    found = generate(model, batch, past_key_values=first.past_key_values)
    assert_same_answer(found, expected)


def test_a_cache_that_holds_the_whole_prompt_already_is_refused(opt, processor):
    batch = processor([TEXT])
    first = generate(opt, batch, past_key_values=DynamicCache())
    with pytest.raises(ValueError, match="`past_key_values` holds"):
        generate(opt, batch, past_key_values=first.past_key_values)


@pytest.mark.parametrize("pad_token_id", (0, 1))
@pytest.mark.parametrize("eos_token_id", (None, 5))
def test_beams_of_a_batch_keep_the_images_with_their_prompt(opt, processor, pad_token_id, eos_token_id):
    prompts = [TEXT, ONE_IMAGE, TWO_IMAGES]
    options = {"num_beams": 3, "num_return_sequences": 2, "pad_token_id": pad_token_id, "eos_token_id": eos_token_id}
    batch = processor(prompts)
    together = generate(opt, batch, **options)
    assert int(together.sequences.min()) >= 0
    for number, prompt in enumerate(prompts):
        single = processor([prompt])
        alone = generate(opt, single, **options)
        for copy_number in range(2):
            row = 2 * number + copy_number
            expected = alone.sequences[copy_number, single["input_ids"].shape[1] :].tolist()
            assert together.sequences[row, batch["input_ids"].shape[1] :].tolist()[: len(expected)] == expected
            own = alone.conditioning["prompt_embeds"][alone.img_batch_indices == copy_number]
            torch.testing.assert_close(
                together.conditioning["prompt_embeds"][together.img_batch_indices == row], own, atol=1e-4, rtol=1e-4
            )


def test_the_factor_on_images_is_one_on_logits_under_beams_too(opt, processor):
    batch = processor([TEXT])
    logits = opt(**batch).logits[0, -1]
    first, *later = processor.image_output_token_ids
    scaled = logits.clone()
    scaled[first] = scaled[first].abs() * 3
    for num_beams in (1, 2):
        written = generate(
            opt, batch, num_beams=num_beams, image_token_scale=3.0, min_text_tokens=0, output_scores=True
        )
        allowed = [i for i in range(len(logits)) if i not in later]
        found = written.scores[0][0]
        expected = scaled if num_beams == 1 else scaled.log_softmax(-1)
        torch.testing.assert_close(found[allowed], expected[allowed])


@pytest.mark.parametrize("num_beams", (1, 3))
def test_what_is_forbidden_stays_forbidden(opt, processor, num_beams):
    batch, image = processor([TEXT]), processor.image_output_token_ids

    def forbid(ids, scores):
        return scores.index_fill(1, torch.tensor(image[:1]), -torch.inf)

    for forbidden in (
        {"suppress_tokens": image[:1]},
        {"bad_words_ids": [image[1:2]]},
        {
            "logits_processor": LogitsProcessorList(
                [lambda ids, scores: scores.index_fill(1, torch.tensor(image[0]), -torch.inf)]
            )
        },
    ):
        written = generate(opt, batch, num_beams=num_beams, image_token_scale=1e5, min_text_tokens=0, **forbidden)
        assert not set(written.sequences.flatten().tolist()) & set(image)


def test_the_rules_of_the_img_tokens_hold_for_log_probabilities():
    rules = ImgTokenLogitsProcessor([5, 6, 7], prompt_length=2, min_text_tokens=1)
    scores = torch.randn(2, 8).log_softmax(-1)
    early = rules(torch.tensor([[1, 2], [1, 2]]), scores)
    assert torch.isneginf(early[:, 5:]).all() and torch.equal(early[:, :5], scores[:, :5])
    later = rules(torch.tensor([[1, 2, 3], [1, 2, 5]]), scores)
    assert torch.equal(later[0, :6], scores[0, :6])
    assert later[1].argmax() == 6 and torch.isneginf(later[1, [0, 1, 2, 3, 4, 5, 7]]).all()


def test_outputs_are_those_of_transformers(opt, processor):
    batch = processor([TEXT])
    assert isinstance(generate(opt, batch), GenerateDecoderOnlyOutput)
    assert isinstance(generate(opt, batch, num_beams=2), GenerateBeamDecoderOnlyOutput)


def test_without_a_prompt_an_answer_starts_from_bos(opt):
    written = opt.generate(max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 5) and written[0, 0] == opt.generation_config.bos_token_id


def test_without_a_prompt_or_a_bos_token_nothing_is_written(processor):
    model = small_model(processor)
    model.generation_config.bos_token_id = None
    with pytest.raises(ValueError, match="`bos_token_id` to start from"):
        model.generate(max_new_tokens=4)


def test_a_generation_config_may_be_given_by_position(opt, processor):
    batch = processor([TEXT])
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=1)
    assert opt.generate(batch["input_ids"], config).shape[1] == batch["input_ids"].shape[1] + 3


def test_the_prompt_is_read_once(opt, processor, monkeypatch):
    lengths = []
    original = GillForConditionalGeneration.run_language_model

    def count(self, inputs_embeds, *args, **kwargs):
        lengths.append(inputs_embeds.shape[1])
        return original(self, inputs_embeds, *args, **kwargs)

    monkeypatch.setattr(GillForConditionalGeneration, "run_language_model", count)
    batch = processor([TWO_IMAGES])
    written = generate(opt, batch, image_token_scale=1e5)
    prompt_length = batch["input_ids"].shape[1]
    answer_length = written.sequences.shape[1] - int(written.img_start_positions[0])
    assert lengths[0] == prompt_length
    assert sum(lengths[1:]) <= 9 + answer_length


@pytest.mark.parametrize("use_cache", (True, False))
def test_guidance_of_texts_writes_no_token_that_the_language_model_has_no_column_for(opt, processor, use_cache):
    batch = processor([ONE_IMAGE, TEXT])
    written = opt.generate(**batch, guidance_scale=1.5, max_new_tokens=6, do_sample=False, use_cache=use_cache)
    written = written[:, batch["input_ids"].shape[1] :]
    assert not (written == processor.image_token_id).any()
    # The first token by hand: the language model's choice given the prompt, away from that given its last token.
    prompts = opt(**batch).logits[:, -1].log_softmax(-1)
    alone = opt(batch["input_ids"][:, -1:]).logits[:, -1].log_softmax(-1)
    assert written[:, 0].tolist() == (1.5 * (prompts - alone) + alone).nan_to_num(-torch.inf).argmax(-1).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        ({"image_token_scale": float("nan")}, "`image_token_scale` must be a finite number, got nan"),
        ({"image_token_scale": "2"}, "`image_token_scale` must be a finite number, got '2'"),
        ({"min_text_tokens": -1}, "`min_text_tokens` must be an integer of at least 0, got -1"),
        ({"image_callback": 5}, "`image_callback` must be callable, got 5"),
        (
            {"past_key_values": ((torch.zeros(1, 4, 3, 8),) * 2,)},
            "`past_key_values` is of type tuple; expected a `Cache`",
        ),
        (
            {"attention_mask": torch.ones(1, 1, 5)},
            r"`attention_mask` must be a tensor of 2 dimensions, got .*\(1, 1, 5\)",
        ),
        ({"attention_mask": torch.ones(2, 5)}, r"`attention_mask` is of shape \(2, 5\).*one row for each prompt"),
        ({"attention_mask": torch.ones(1, 2)}, "a column for each of its tokens"),
        ({"input_ids": torch.ones(5)}, r"`input_ids` must be a tensor of 2 dimensions, got one of shape \(5,\)"),
        ({"input_ids": [[3, 4]]}, "`input_ids` must be a tensor of 2 dimensions, got a list"),
        ({"input_ids": torch.ones(1, 5)}, "`input_ids` are torch.float32; expected integers"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "expected at least one token"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.long)}, "expected at least one token"),
        (
            {"pixel_values": torch.zeros(1, 3, 16, 16), "image_features": torch.zeros(1, 20)},
            "either `pixel_values` or `image_features`, not both",
        ),
        (
            {"input_ids": None, "inputs_embeds": torch.zeros(1, 2, 24), "pixel_values": torch.zeros(1, 3, 16, 16)},
            "`inputs_embeds` hold the images",
        ),
    ),
)
def test_an_argument_that_would_be_ignored_or_fail_elsewhere_is_refused(opt, arguments, message):
    given = {"input_ids": torch.tensor([[5, 6, 7, 8, 9]]), **arguments}
    with pytest.raises(ValueError, match=message):
        opt.generate(**given, max_new_tokens=2)


def test_images_given_twice_are_refused_by_forward(opt, processor):
    batch = processor([ONE_IMAGE])
    features = opt.get_image_features(batch["pixel_values"]).pooler_output
    with pytest.raises(ValueError, match="not both"):
        opt(**batch, image_features=features)
    with pytest.raises(ValueError, match="hold the images already"):
        opt(inputs_embeds=opt.embed_tokens(batch["input_ids"]), pixel_values=batch["pixel_values"])
