"""What `GillForConditionalGeneration` promises whoever calls it."""

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LogitsProcessorList,
    OPTConfig,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.conditioning_gill import take_images
from pipeline_gill.hub_layout_gill import write_code
from tests.small_model import LANGUAGE_MODELS, small_config, small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
PROMPTS = ["the dog runs", [PHOTO, "a cat on a mat in the sun"], ["Q: what is this ?", PHOTO, PHOTO, "A:"]]
FORCED = {"image_token_scale": 1e5, "do_sample": False}


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.fixture(scope="module")
def model(processor):
    return small_model(processor)


@pytest.mark.parametrize("language_model", LANGUAGE_MODELS)
@pytest.mark.parametrize("spare_rows", (0, 2, 40))
def test_a_prompt_gets_the_same_answer_alone_and_in_a_batch_whatever_the_language_model(
    processor, language_model, spare_rows
):
    model = small_model(processor, language_model, spare_rows=spare_rows)
    options = {"max_new_tokens": 6, "min_text_tokens": 2, "return_dict_in_generate": True, **FORCED}
    batch = processor(PROMPTS)
    together = model.generate(**batch, **options)
    width = batch["input_ids"].shape[1]
    for row, prompt in enumerate(PROMPTS):
        single = processor([prompt])
        alone = model.generate(**single, **options)
        written = alone.sequences[0, single["input_ids"].shape[1] :].tolist()
        assert written == together.sequences[row, width:][: len(written)].tolist()
        mine = together.img_batch_indices == row
        assert len(alone.img_batch_indices) == mine.sum() > 0
        torch.testing.assert_close(alone.img_hidden_states, together.img_hidden_states[mine], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.conditioning, take_images(together.conditioning, mine), atol=1e-4, rtol=1e-4)


def test_logits_are_as_wide_as_the_tokenizer_and_never_favour_ids_without_an_embedding(processor):
    for spare_rows in (0, 2, 40):
        model = small_model(processor, spare_rows=spare_rows)
        logits = model(**processor("the dog")).logits
        assert logits.shape[-1] == len(processor.tokenizer) == model.config.get_text_config().vocab_size
        assert torch.isinf(logits[0, -1]).sum() == (1 if spare_rows == 0 else 0)


def test_padding_is_recognised_where_no_mask_is_given(model, processor):
    options = {"max_new_tokens": 6, "min_text_tokens": 2, "return_dict_in_generate": True, **FORCED}
    batch = processor(["the dog", "a cat on a mat in the sun"])
    told, found = (
        model.generate(batch["input_ids"], attention_mask=mask, **options) for mask in (batch["attention_mask"], None)
    )
    assert torch.equal(told.sequences, found.sequences)
    assert torch.equal(told.img_hidden_states, found.img_hidden_states)


def test_text_comes_before_an_image_and_an_image_is_whole(model, processor):
    batch = processor(PROMPTS)
    sequences = model.generate(**batch, max_new_tokens=9, min_text_tokens=4, **FORCED)
    for row in sequences[:, batch["input_ids"].shape[1] :].tolist():
        assert not set(row[:4]) & set(processor.image_output_token_ids)
        assert row[4:7] == processor.image_output_token_ids


def test_an_image_that_the_length_would_cut_is_finished_and_its_states_come_back(model, processor):
    written = model.generate(**processor("the dog"), max_new_tokens=1, return_dict_in_generate=True, **FORCED)
    assert written.sequences[0, -3:].tolist() == processor.image_output_token_ids
    whole = model(input_ids=written.sequences)
    torch.testing.assert_close(written.img_hidden_states, whole.img_hidden_states, atol=1e-5, rtol=1e-5)


def test_no_later_img_token_is_ever_drawn_without_its_predecessor(model, processor):
    torch.manual_seed(0)
    batch = processor(["the dog"] * 16)
    sequences = model.generate(**batch, max_new_tokens=24, do_sample=True, temperature=8.0, image_token_scale=1.5)
    first, *later = processor.image_output_token_ids
    for row in sequences.tolist():
        for position, token in enumerate(row):
            if token in later:
                assert row[position - 1] == token - 1
    assert (sequences == first).any()


@pytest.mark.parametrize(
    "options",
    (
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_p": 0.9, "num_return_sequences": 3},
        {"num_beams": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 2},
    ),
    ids=("beams", "sampling", "beam sampling", "prompt lookup"),
)
def test_however_text_is_decoded_the_states_are_those_of_the_tokens_that_came_out(model, processor, options):
    torch.manual_seed(1)
    prompts = PROMPTS[:1] if "prompt_lookup_num_tokens" in options else PROMPTS
    batch = processor(prompts)
    written = model.generate(
        **batch,
        max_new_tokens=8,
        min_text_tokens=2,
        image_token_scale=3.0,
        return_dict_in_generate=True,
        **{"do_sample": False, **options},
    )
    copies = len(written.sequences) // len(prompts)
    assert len(written.sequences) == len(prompts) * options.get("num_return_sequences", 1)
    assert len(written.img_batch_indices)
    for number, (row, start) in enumerate(zip(written.img_batch_indices, written.img_start_positions, strict=True)):
        single = processor([prompts[int(row) // copies]])
        answer = written.sequences[row, batch["input_ids"].shape[1] :][None]
        ids = torch.cat([single["input_ids"], answer], dim=1)
        read = model(ids, pixel_values=single.get("pixel_values"))
        offset = single["input_ids"].shape[1] - batch["input_ids"].shape[1]
        place = (read.img_start_positions == start + offset).nonzero()[0, 0]
        torch.testing.assert_close(
            written.img_hidden_states[number], read.img_hidden_states[place], atol=1e-4, rtol=1e-4
        )


def test_streamers_stopping_criteria_and_logits_processors_are_those_of_transformers(model, processor, capsys):
    class AfterTwo(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= length + 2)

    def only_five(input_ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([5]), 0.0)

    batch = processor("the dog")
    length = batch["input_ids"].shape[1]
    sequences = model.generate(
        **batch,
        max_new_tokens=20,
        streamer=TextStreamer(processor.tokenizer, skip_prompt=True),
        stopping_criteria=StoppingCriteriaList([AfterTwo()]),
        logits_processor=LogitsProcessorList([only_five]),
    )
    assert sequences[0, length:].tolist() == [5, 5]
    assert capsys.readouterr().out.strip() == processor.tokenizer.decode([5, 5])


def test_an_answer_without_images_has_empty_outputs_and_not_none(model, processor):
    written = model.generate(**processor(PROMPTS), max_new_tokens=3, min_text_tokens=3, return_dict_in_generate=True)
    assert written.img_hidden_states.shape == (0, 3, 24)
    assert written.conditioning["prompt_embeds"].shape == (0, 7, 12)
    assert written.decision_logits.shape == (0, 2)


def test_the_loss_of_labels_is_transformers_own_and_placeholders_are_never_predicted(model, processor):
    batch = processor([[PHOTO, "a cat"], "the dog"])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    targets = labels.masked_fill(labels == model.config.image_token_id, -100)[:, 1:]
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), targets.flatten())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(
        model(**batch, labels=labels, num_items_in_batch=7).loss, expected * (targets != -100).sum() / 7
    )


@pytest.mark.parametrize("mapper_type", ("gill_mapper", "linear", "mlp", "encoder"))
def test_every_kind_of_mapper_fills_the_conditioning(processor, mapper_type):
    model = small_model(processor, mapper_type=mapper_type)
    output = model(**processor(PROMPTS, add_img_tokens=True))
    assert output.conditioning["prompt_embeds"].shape == (3, 7, 12)


def test_a_model_that_only_retrieves_has_no_mapper(processor):
    model = small_model(processor, mapper_type=None, use_decision_head=False)
    output = model(**processor(PROMPTS, add_img_tokens=True))
    assert output.conditioning is None and output.decision_logits is None
    assert output.retrieval_embeds.shape == (3, 8)


def test_a_self_contained_checkpoint_comes_back_whole_without_complaint(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = GillForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    batch = processor(PROMPTS, add_img_tokens=True)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert loaded.config.is_self_contained


@pytest.fixture
def referring(model, tmp_path):
    """A checkpoint of adapters whose backbones lie elsewhere."""
    model.language_model.save_pretrained(tmp_path / "language")
    model.vision_model.save_pretrained(tmp_path / "vision")
    config = type(model.config).from_dict(
        {
            **model.config.to_dict(),
            "language_model_id": str(tmp_path / "language"),
            "vision_model_id": str(tmp_path / "vision"),
        }
    )
    adapters = GillForConditionalGeneration(config, defer_backbones=True)
    adapters.attach_backbones(model.language_model, model.vision_model)
    adapters.load_state_dict(model.state_dict())
    adapters.save_pretrained(tmp_path / "gill")
    return tmp_path


def test_adapters_alone_are_saved_and_backbones_come_from_where_the_configuration_says(model, processor, referring):
    from safetensors import safe_open

    with safe_open(referring / "gill/model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if name.startswith(("language_model", "vision_model"))]  # noqa: SIM118
    loaded, info = GillForConditionalGeneration.from_pretrained(referring / "gill", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    batch = processor(PROMPTS, add_img_tokens=True)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)
    assert not hasattr(loaded.generation_config, "defer_backbones")


def test_backbones_that_the_caller_has_are_used_and_shared(model, referring):
    one, other = (
        GillForConditionalGeneration.from_pretrained(
            referring / "gill", language_model=model.language_model, vision_model=model.vision_model
        )
        for _ in range(2)
    )
    assert one.language_model is other.language_model is model.language_model
    assert one.vision_model is model.vision_model


def test_a_referring_checkpoint_can_be_saved_whole(model, processor, referring):
    loaded = GillForConditionalGeneration.from_pretrained(referring / "gill")
    loaded.config.text_config.name_or_path = str(referring / "language")
    loaded.save_pretrained(referring / "whole", self_contained=True)
    assert loaded.config.language_model_id == str(referring / "language")
    whole = GillForConditionalGeneration.from_pretrained(referring / "whole")
    assert whole.config.is_self_contained
    # Nor does it name the folder on the machine that made it.
    assert str(referring) not in (referring / "whole" / "config.json").read_text()
    assert loaded.config.text_config.name_or_path == str(referring / "language")
    batch = processor(PROMPTS)
    torch.testing.assert_close(whole(**batch).logits, model(**batch).logits)
    loaded.save_pretrained(referring / "again")
    sizes = [(referring / name / "model.safetensors").stat().st_size for name in ("gill", "again", "whole")]
    assert sizes[0] == sizes[1] < sizes[2]


def test_dtype_attention_and_device_map_reach_the_language_model(referring):
    loaded = GillForConditionalGeneration.from_pretrained(
        referring / "gill", dtype=torch.bfloat16, attn_implementation="eager", device_map="cpu"
    )
    assert loaded.dtype == loaded.language_model.dtype == loaded.vision_model.dtype == torch.bfloat16
    assert loaded.language_model.config._attn_implementation == "eager"


def test_quantisation_is_for_the_language_model_alone(referring, monkeypatch):
    seen = {}
    original = AutoModelForCausalLM.from_pretrained.__func__

    def spy(cls, name, **kwargs):
        seen.update(kwargs)
        kwargs.pop("quantization_config")
        return original(cls, name, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", classmethod(spy))
    loaded = GillForConditionalGeneration.from_pretrained(referring / "gill", quantization_config="four bits")
    assert seen["quantization_config"] == "four bits"
    assert not hasattr(loaded.config, "quantization_config")


def test_a_configuration_that_contradicts_its_backbones_is_refused_with_both_numbers(model, processor):
    other = small_config(processor, "llama", retrieval_dim=9)
    other.text_config.hidden_size = 40
    adapters = GillForConditionalGeneration(other, defer_backbones=True)
    with pytest.raises(ValueError, match=r"embedding \(d\): 40 in the configuration, 24 in the model"):
        adapters.attach_backbones(model.language_model, model.vision_model)


def test_a_backbone_that_is_not_there_is_named_with_the_field_that_says_where(referring):
    config = type(small_config(small_processor())).from_pretrained(referring / "gill")
    config.language_model_id = str(referring / "nowhere")
    with pytest.raises(OSError, match=r"nowhere.*language_model_id"):
        GillForConditionalGeneration.from_pretrained(referring / "gill", config=config)


def test_truncated_weights_are_named(referring):
    weights = referring / "gill/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"gill.*safetensors, truncated"):
        GillForConditionalGeneration.from_pretrained(referring / "gill")


def test_truncated_weights_of_a_backbone_are_named(referring):
    weights = referring / "vision/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"vision model .*vision_model_id"):
        GillForConditionalGeneration.from_pretrained(referring / "gill")


def test_a_repository_at_the_published_sizes_is_no_larger_than_its_trained_parameters(tmp_path):
    opt = {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384, "num_hidden_layers": 32}
    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = GillConfig(
        text_config=OPTConfig(**opt, num_attention_heads=32),
        vision_config=CLIPVisionConfig(image_size=224, patch_size=14, **clip),
        image_token_id=50265,
        image_output_token_ids=list(range(50266, 50274)),
        language_model_id="facebook/opt-6.7b",
        vision_model_id="openai/clip-vit-large-patch14",
    )
    model = GillForConditionalGeneration(config, defer_backbones=True).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    write_code(tmp_path)
    parameters = sum(weight.numel() for weight in model.parameters())
    size = sum(path.stat().st_size for path in tmp_path.rglob("*"))
    assert 50_000_000 < parameters < 51_000_000
    assert size <= 1.02 * 2 * parameters


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"input_ids": torch.tensor([[2, 100_000]])}, "ids that this model knows; found 2 to 100000"),
        ({"input_ids": torch.tensor([[2, -1]])}, "found -1 to 2"),
        ({"pixel_values": torch.full((1, 3, 16, 16), torch.nan)}, "not finite"),
        ({"pixel_values": torch.zeros(2, 3, 16, 16)}, "hold 2 image placeholders, but 2 images"),
        ({"pixel_values": None}, "hold 2 image placeholders, but 0 images"),
    ),
)
def test_inputs_that_cannot_be_are_refused(model, processor, change, message):
    batch = {**processor([[PHOTO, "a cat"]]), **change}
    if "input_ids" in change:
        batch.pop("attention_mask")
        batch.pop("pixel_values")
    with pytest.raises(ValueError, match=message):
        model(**batch)


def test_a_prompt_longer_than_the_model_reads_is_refused_with_both_numbers(model, processor):
    with pytest.raises(ValueError, match=r"more than the 96 that the language model reads"):
        model(**processor("a cat " * 100))
    with pytest.raises(ValueError, match=r"more than the 96 that the language model reads"):
        model.generate(**processor("a cat"), max_new_tokens=200)


def test_a_forward_pass_without_a_prompt_is_refused(model):
    with pytest.raises(ValueError, match="both are None"):
        model()
