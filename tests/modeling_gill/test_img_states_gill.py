"""States of several layers at the `[IMG]` tokens, and many `[IMG]` tokens. Without these options the model is GILL."""

import pytest
import torch

from modeling_gill import GillForConditionalGeneration
from tests.small_model import small_config, small_model, small_processor
from tests.training_passes import both_passes, plain_losses
from training_gill.training_step import AdapterTrainingStep

LEARNED = {"img_state_layers": [-1, 1, 0], "img_state_combination": "learned"}
OPTIONS = {"max_new_tokens": 8, "min_text_tokens": 2, "image_token_scale": 1e5, "return_dict_in_generate": True}


@pytest.fixture(scope="module")
def processor():
    return small_processor()


def model_with(processor, language_model="llama", **fields):
    model = small_model(processor, language_model, **fields)
    if model.layer_combination is not None and model.layer_combination.weight is not None:
        with torch.no_grad():
            model.layer_combination.weight.copy_(torch.tensor([0.5, -0.3, 1.0]))
    return model


def test_the_last_layer_alone_is_gill(processor):
    gill, same = (model_with(processor, **fields) for fields in ({}, {"img_state_layers": [-1]}))
    same.load_state_dict(gill.state_dict())
    batch = processor(["a cat", "the dog on a mat"], add_img_tokens=True)
    expected, found = gill(**batch), same(**batch)
    for name in ("img_hidden_states", "retrieval_embeds", "decision_logits", "logits"):
        assert torch.equal(found[name], expected[name])
    assert torch.equal(found.conditioning["prompt_embeds"], expected.conditioning["prompt_embeds"])


@pytest.mark.parametrize("fields", (LEARNED, {"img_state_layers": [0, 2]}), ids=("learned", "mean"))
def test_all_heads_read_the_combined_states_of_the_layers(processor, fields):
    model = model_with(processor, **fields)
    batch = processor(["a cat"], add_img_tokens=True)
    output = model(**batch, output_hidden_states=True)
    start = int(output.img_start_positions[0])
    layers = torch.stack([output.hidden_states[layer][:, start:] for layer in fields["img_state_layers"]], dim=-1)
    weight = model.layer_combination.weight
    shares = torch.full((layers.shape[-1],), 1 / layers.shape[-1]) if weight is None else weight.softmax(0)
    expected = (layers * shares).sum(-1)
    torch.testing.assert_close(output.img_hidden_states, expected)
    torch.testing.assert_close(output.retrieval_embeds, model.text_retrieval_head(expected[:, 0]))
    torch.testing.assert_close(output.decision_logits, model.decision_head(expected[:, 0]))
    mapped = model.mapper(expected, model.img_embeddings.weight).tensors["prompt_embeds"]
    torch.testing.assert_close(output.conditioning["prompt_embeds"], mapped)
    torch.testing.assert_close(model.get_text_retrieval_embeddings(**processor(["a cat"])), output.retrieval_embeds)
    assert model(**batch).hidden_states is None


@pytest.mark.parametrize("language_model", ("llama", "gpt2"))
def test_images_that_are_generated_have_the_states_of_one_pass_in_a_batch_and_with_any_cache(processor, language_model):
    fields = {**LEARNED, "img_state_layers": [-1, 1, 2]}
    model = model_with(processor, language_model, **fields)
    batch = processor(["a cat", "the dog on a mat"])
    together = model.generate(**batch, **OPTIONS)
    uncached = model.generate(**batch, **OPTIONS, use_cache=False)
    alone = [model.generate(**processor([prompt]), **OPTIONS) for prompt in ("a cat", "the dog on a mat")]
    assert len(together.img_hidden_states)
    torch.testing.assert_close(together.img_hidden_states, torch.cat([one.img_hidden_states for one in alone]))
    torch.testing.assert_close(together.img_hidden_states, uncached.img_hidden_states)
    again = model(input_ids=alone[0].sequences)
    torch.testing.assert_close(alone[0].img_hidden_states, again.img_hidden_states)
    torch.testing.assert_close(alone[0].conditioning["prompt_embeds"], again.conditioning["prompt_embeds"])


@pytest.mark.parametrize("packed", (False, True))
def test_the_training_step_has_the_losses_and_gradients_of_plain_passes(processor, packed):
    model = model_with(processor, **LEARNED)
    img = processor.image_output_token_ids
    captions = [[2, 10, 11, 12, *img], [2, 13, 14, *img]]
    batch = both_passes(captions, model.config, packed)
    features, target = torch.randn(2, 20), {"prompt_embeds": torch.randn(2, 7, 12)}
    step = AdapterTrainingStep(model).train()
    output = step(**batch, image_features=features, target_conditioning=target)
    output["loss"].backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert found["layer_combination.weight"].any()
    model.zero_grad()
    losses = plain_losses(model, batch, features, features, target)
    sum(losses.values()).backward()
    torch.testing.assert_close(output["loss"].detach(), sum(losses.values()).detach(), rtol=1e-5, atol=1e-5)
    for name in found:
        expected = model.get_parameter(name).grad
        torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_weights_are_saved_and_loaded(processor, tmp_path):
    model = model_with(processor, **LEARNED)
    model.save_pretrained(tmp_path)
    loaded = GillForConditionalGeneration.from_pretrained(tmp_path)
    batch = processor(["a cat"], add_img_tokens=True)
    assert torch.equal(loaded(**batch).retrieval_embeds, model(**batch).retrieval_embeds)
    assert loaded.config.img_state_layers == [-1, 1, 0]


def test_the_weights_are_equal_at_first(processor):
    assert not small_model(processor, **LEARNED).layer_combination.weight.any()


def test_a_configuration_without_the_option_is_written_as_before(processor):
    written = small_config(processor).to_dict()
    assert not {"img_state_layers", "img_state_combination"} & written.keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    (
        ({"img_state_layers": []}, r"one or more different integers, got \[\]"),
        ({"img_state_layers": [1, 1]}, "one or more different integers"),
        ({"img_state_layers": ["-1"]}, "one or more different integers"),
        ({"img_state_layers": [-1, 3]}, "has 2 layers; expected indices from -3 to 2"),
        ({"img_state_layers": [-1], "img_state_combination": "sum"}, "must be one of .*'mean', 'learned'.*'sum'"),
        ({"img_state_combination": "learned"}, "but `img_state_layers` is None"),
    ),
)
def test_what_cannot_be_combined_is_refused_by_name(processor, fields, message):
    with pytest.raises(ValueError, match=message):
        small_config(processor, **fields)


def test_states_of_one_layer_are_refused_where_several_are_read(processor):
    model = model_with(processor, **LEARNED)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 24\); expected \(num_images.* 3, embedding_dim\)"):
        model.combine_img_states(torch.zeros(2, 3, 24))


def test_layers_of_another_width_than_the_last_states_are_refused_by_name(processor):
    model = model_with(processor, "opt", **LEARNED)
    with pytest.raises(ValueError, match=r"OPTForCausalLM \(opt\) has states \[24, 32, .*expected 24"):
        model(**processor(["a cat"], add_img_tokens=True))


# --- many [IMG] tokens -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many():
    """256 `[IMG]` tokens, a processor and a model that reads 400 tokens."""
    processor = small_processor(num_image_output_tokens=256)
    config = small_config(processor, "llama")
    config.text_config.max_position_embeddings = 400
    torch.manual_seed(0)
    model = GillForConditionalGeneration(config).eval()
    model.generation_config.pad_token_id = 1
    return processor, model


def test_an_image_of_256_tokens_is_written_whole_and_has_the_states_of_one_pass(many):
    processor, model = many
    options = {**OPTIONS, "max_new_tokens": 4, "min_text_tokens": 1}
    output = model.generate(**processor(["a cat"]), **options)
    assert output.img_hidden_states.shape == (1, 256, 24)
    again = model(**processor(["a cat"], add_img_tokens=True))
    assert again.img_hidden_states.shape == (1, 256, 24)
    whole = model(input_ids=output.sequences)
    torch.testing.assert_close(output.img_hidden_states, whole.img_hidden_states, rtol=1e-4, atol=1e-5)


def test_a_training_step_over_256_tokens_reaches_all_rows(many):
    processor, model = many
    captions = [[2, 10, 11, *processor.image_output_token_ids], [2, 13, *processor.image_output_token_ids]]
    batch = both_passes(captions, model.config, packed=False)
    features, target = torch.randn(2, 20), {"prompt_embeds": torch.randn(2, 7, 12)}
    AdapterTrainingStep(model)(**batch, image_features=features, target_conditioning=target)["loss"].backward()
    assert model.img_embeddings.weight.grad.any(1).all()


def test_a_prompt_that_leaves_no_room_for_256_tokens_is_refused_with_both_numbers(many):
    processor, model = many
    ids = torch.full((1, 150), 5)
    ids = torch.cat([ids, torch.tensor([processor.image_output_token_ids])], dim=1)
    with pytest.raises(ValueError, match=r"406 tokens .* more than the 400"):
        model(input_ids=ids)
