"""What the options promise that make DreamLLM of the model: runs, rows, gradients, and weights that are saved."""

import copy

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_gill import GillConfig, GillForConditionalGeneration
from modeling_gill.decoder_traits_gill import cache_of
from tests.small_dream import NUM_PATCHES, NUM_QUERIES, small_dream_config, small_dream_model, small_dream_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
OTHER = Image.radial_gradient("L").resize((30, 20)).convert("RGB")
PROMPTS = ["the dog runs", [PHOTO, "a cat on a mat in the sun"], ["what is this ?", OTHER, PHOTO, "a"]]


@pytest.fixture(scope="module")
def processor():
    return small_dream_processor()


@pytest.fixture(scope="module")
def model(processor):
    return small_dream_model(processor)


def referring(model, folder, **fields):
    """The same model, whose backbones have repositories of their own."""
    model.language_model.save_pretrained(folder / "language")
    model.vision_model.save_pretrained(folder / "vision")
    ids = {"language_model_id": str(folder / "language"), "vision_model_id": str(folder / "vision")}
    config = GillConfig.from_dict({**model.config.to_dict(), **ids, **fields})
    if config.language_model_id is None:
        made = GillForConditionalGeneration(config, defer_vision_model=True)
        made.load_state_dict(model.state_dict(), strict=False)
        made.attach_backbones(made.language_model, copy.deepcopy(model.vision_model))
    else:
        made = GillForConditionalGeneration(config, defer_backbones=True)
        made.load_state_dict(model.state_dict(), strict=False)
        made.attach_backbones(copy.deepcopy(model.language_model), copy.deepcopy(model.vision_model))
    made.generation_config = copy.deepcopy(model.generation_config)
    return made


def loss_of(model, batch):
    output = model(**batch, labels=batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100))
    return output.loss + output.conditioning["prompt_embeds"].square().sum()


# --- what is computed ------------------------------------------------------------------------------------------------


def test_the_conditioning_is_a_projection_of_the_states_at_the_queries_after_the_last_norm(model, processor):
    batch = processor(PROMPTS, add_img_tokens=True)
    output = model(**batch)
    embeds = model.embed_prompt(batch["input_ids"], batch["pixel_values"])
    states = model.language_model.model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).last_hidden_state
    expected = states[:, -NUM_QUERIES - 1 : -1]
    torch.testing.assert_close(output.img_hidden_states, expected, atol=1e-5, rtol=1e-5)
    projected = expected @ model.mapper.output_projection.weight.T
    torch.testing.assert_close(output.conditioning["prompt_embeds"], projected, atol=1e-5, rtol=1e-5)
    assert output.retrieval_embeds is None and output.decision_logits is None
    assert model.mapper.output_projection.bias is None


def test_a_prompt_gets_the_same_alone_and_in_a_batch(model, processor):
    together = model(**processor(PROMPTS, add_img_tokens=True))
    for row, prompt in enumerate(PROMPTS):
        alone = model(**processor([prompt], add_img_tokens=True))
        torch.testing.assert_close(together.img_hidden_states[row], alone.img_hidden_states[0], atol=1e-5, rtol=1e-5)
        length = alone.logits.shape[1]
        torch.testing.assert_close(together.logits[row, -length:], alone.logits[0], atol=1e-5, rtol=1e-5)


def test_a_run_fed_in_one_pass_over_a_cache_has_the_states_of_the_whole(model, processor):
    batch = processor(PROMPTS)
    whole = processor(PROMPTS, add_img_tokens=True)
    run = torch.tensor(model.config.image_output_run_ids).expand(len(PROMPTS), -1)
    first = model(**batch, use_cache=True)
    second = model(run, whole["attention_mask"], past_key_values=cache_of(first), output_images=True)
    torch.testing.assert_close(second.img_hidden_states, model(**whole).img_hidden_states, atol=1e-5, rtol=1e-5)


def test_images_are_taken_in_reading_order_through_the_batch(model, processor):
    batch = processor([[PHOTO, "a", OTHER], [OTHER]])
    embeds = model.embed_prompt(batch["input_ids"], batch["pixel_values"])
    found = embeds[batch["input_ids"] == model.config.image_token_id].unflatten(0, (3, NUM_PATCHES))
    one, other = (
        model.get_image_features(processor(images=image)["pixel_values"]).pooler_output for image in (PHOTO, OTHER)
    )
    torch.testing.assert_close(found, model.embed_images(torch.cat([one, other, other])), atol=1e-5, rtol=1e-5)


def test_queries_are_never_predicted_and_the_start_token_is_what_opens_an_image(model, processor):
    batch = processor("the dog")
    logits = model(**batch).logits
    assert (logits[..., processor.image_output_token_ids] == -torch.inf).all()
    opening = processor.tokenizer.convert_tokens_to_ids("<dream_start>")
    scaled = model(**batch, image_token_scale=3.0).logits
    torch.testing.assert_close(scaled[..., opening], logits[..., opening].abs() * 3)
    others = [i for i in range(logits.shape[-1]) if i != opening]
    assert torch.equal(scaled[..., others], logits[..., others])


def test_targets_that_cannot_be_predicted_do_not_count_and_no_target_is_no_loss(model, processor):
    batch = processor("the dog", add_img_tokens=True)
    ids = batch["input_ids"]
    queries = torch.isin(ids, torch.tensor(processor.image_output_token_ids))
    with_queries, without = (model(**batch, labels=labels).loss for labels in (ids, ids.masked_fill(queries, -100)))
    assert torch.isfinite(with_queries) and torch.equal(with_queries, without)
    nothing = model(**batch, labels=torch.full_like(ids, -100)).loss
    assert nothing.item() == 0.0


def test_a_projection_of_several_layers_with_a_norm_is_what_its_fields_say(processor):
    model = small_dream_model(processor, visual_projection_depth=3, visual_projection_norm=True)
    features = model.get_image_features(processor(images=PHOTO)["pixel_values"]).pooler_output
    weights = dict(model.visual_projection.named_parameters())
    assert sorted(weights) == [f"{i}.{kind}" for i in (0, 2, 4) for kind in ("bias", "weight")]
    expected = features
    for i in (0, 2, 4):
        expected = torch.nn.functional.gelu(expected) if i else expected
        expected = torch.nn.functional.linear(expected, weights[f"{i}.weight"], weights[f"{i}.bias"])
    norm = model.visual_norm
    expected = torch.nn.functional.layer_norm(expected, (24,), norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(model.embed_images(features), expected)


def test_a_pooled_feature_can_have_a_projection_of_several_layers_too(processor):
    fields = {"vision_pooling": "pooler", "vision_feature_layer": -1, "num_visual_tokens": NUM_PATCHES}
    model = small_dream_model(processor, visual_projection_depth=2, **fields)
    assert model.embed_images(torch.randn(3, 20)).shape == (3, NUM_PATCHES, 24)
    assert model(**processor(PROMPTS, add_img_tokens=True)).conditioning["prompt_embeds"].shape == (3, NUM_QUERIES, 12)


def test_a_projection_serves_a_generator_with_a_mask_and_one_with_a_vector_per_image(processor):
    conditioning = [
        {"name": "prompt_embeds", "length": NUM_QUERIES, "dim": 10, "mask_name": "prompt_attention_mask"},
        {"name": "pooled_prompt_embeds", "length": None, "dim": 6, "scale": 2.0},
    ]
    model = small_dream_model(processor, conditioning=conditioning, conditioning_dim=None)
    output = model(**processor(PROMPTS, add_img_tokens=True))
    assert output.conditioning["prompt_attention_mask"].all()
    pooled = output.img_hidden_states.mean(1) @ model.mapper.output_projection["pooled_prompt_embeds"].weight.T * 2
    torch.testing.assert_close(output.conditioning["pooled_prompt_embeds"], pooled)


def test_rows_beside_a_language_model_are_as_rows_inside_of_it(model, processor):
    rows = processor.image_token_id
    added = list(range(rows, processor.image_output_token_ids[0]))
    beside = small_dream_model(processor, num_rows=rows, added_token_ids=added)
    assert not beside.added_embeddings.weight.requires_grad and not beside.added_head.weight.requires_grad
    state = model.state_dict()
    names = {"embed_tokens": "added_embeddings.weight", "lm_head": "added_head.weight"}
    for name in list(state):
        for part, own in names.items():
            if part in name:
                state[own], state[name] = state[name][rows:], state[name][:rows]
    beside.load_state_dict(state)
    batch = processor(PROMPTS, add_img_tokens=True)
    found, expected = beside(**batch), model(**batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.img_hidden_states, expected.img_hidden_states, atol=1e-5, rtol=1e-5)


def test_a_fresh_model_draws_the_rows_of_added_tokens_as_those_of_an_embedding(processor):
    torch.manual_seed(0)
    rows = processor.image_token_id
    added = list(range(rows, processor.image_output_token_ids[0]))
    model = GillForConditionalGeneration(small_dream_config(processor, num_rows=rows, added_token_ids=added))
    for weight in (model.img_embeddings.weight, model.added_embeddings.weight, model.added_head.weight):
        assert 0.01 < weight.std() < 0.03


def test_a_model_without_a_retrieval_space_says_so(model, processor):
    batch = processor("the dog")
    for call in (
        lambda: model.get_text_retrieval_embeddings(**batch),
        lambda: model.get_image_retrieval_embeddings(image_features=torch.zeros(1, 4, 20)),
        lambda: model.retrieval_scores(torch.zeros(1, 4), torch.zeros(1, 4)),
        model.retrieval_fingerprint,
    ):
        with pytest.raises(ValueError, match="no retrieval space"):
            call()


def test_a_start_token_goes_before_the_run_that_a_text_is_embedded_with(processor):
    model = small_dream_model(processor, retrieval_dim=8, use_decision_head=True)
    expected = model(**processor(PROMPTS, add_img_tokens=True)).retrieval_embeds
    for add_img_tokens in (False, True):
        found = model.get_text_retrieval_embeddings(**processor(PROMPTS, add_img_tokens=add_img_tokens))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# --- what learns -----------------------------------------------------------------------------------------------------


def test_the_conditioning_carries_gradients_to_queries_projections_and_no_frozen_model(processor):
    model = small_dream_model(processor)
    output = model(**processor(PROMPTS, add_img_tokens=True))
    output.conditioning["prompt_embeds"].square().sum().backward()
    reached = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert reached == {
        "img_embeddings.weight",
        "mapper.output_projection.weight",
        "visual_projection.weight",
        "visual_projection.bias",
    }


@pytest.mark.parametrize("checkpointing", (False, True))
def test_a_language_model_that_learns_gets_the_gradients_of_the_plain_computation(processor, checkpointing):
    model = small_dream_model(processor)
    model.unfreeze_language_model()
    plain = copy.deepcopy(model)
    batch = processor(PROMPTS, add_img_tokens=True)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    loss_of(model, batch).backward()

    ids, mask = batch["input_ids"], batch["attention_mask"]
    embeds = plain.language_model.get_input_embeddings()(ids.clamp(max=processor.image_output_token_ids[0] - 1))
    visual = plain.visual_projection(plain.get_image_features(batch["pixel_values"]).pooler_output)
    embeds = embeds.masked_scatter((ids == processor.image_token_id)[..., None], visual)
    queries = torch.isin(ids, torch.tensor(processor.image_output_token_ids))
    embeds = embeds.masked_scatter(queries[..., None], plain.img_embeddings.weight.repeat(len(ids), 1))
    states = plain.language_model.model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    logits = plain.language_model.lm_head(states)
    unlabelled = (mask == 0) | queries | (ids == processor.image_token_id)
    labels = ids.masked_fill(unlabelled, -100)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    drawn = states[queries].unflatten(0, (len(ids), NUM_QUERIES)) @ plain.mapper.output_projection.weight.T
    (loss + drawn.square().sum()).backward()
    expected = dict(plain.named_parameters())
    for name, weight in model.named_parameters():
        if name.startswith("vision_model."):
            assert weight.grad is None
        else:
            torch.testing.assert_close(weight.grad, expected[name].grad, atol=1e-4, rtol=1e-4, msg=name)


# --- what is saved ---------------------------------------------------------------------------------------------------


def test_a_language_model_inside_is_saved_and_the_tower_is_not(model, processor, tmp_path):
    made = referring(model, tmp_path, language_model_id=None)
    made.save_pretrained(tmp_path / "dream")
    names = {name.split(".")[0] for name in load_file(tmp_path / "dream/model.safetensors")}
    assert names == {"language_model", "visual_projection", "img_embeddings", "mapper"}
    for given in ({}, {"vision_model": model.vision_model}):
        loaded, info = GillForConditionalGeneration.from_pretrained(
            tmp_path / "dream", output_loading_info=True, **given
        )
        assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
        batch = processor(PROMPTS, add_img_tokens=True)
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
        assert loaded.config.referenced_backbones == ("vision_model",)
        assert not hasattr(loaded.generation_config, "defer_vision_model")
        assert not any(weight.requires_grad for weight in loaded.language_model.parameters())
        assert not loaded.training
    loaded.save_pretrained(tmp_path / "whole", self_contained=True)
    whole = GillForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert whole.config.is_self_contained and torch.equal(whole(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize(
    "options", ({"attn_implementation": "eager"}, {"device_map": {"": "cpu"}}, {"dtype": torch.bfloat16})
)
def test_options_of_loading_reach_a_language_model_inside_and_the_tower(model, processor, tmp_path, options):
    referring(model, tmp_path, language_model_id=None).save_pretrained(tmp_path / "dream")
    loaded = GillForConditionalGeneration.from_pretrained(tmp_path / "dream", **options)
    parts = (loaded.language_model, loaded.vision_model)
    if "attn_implementation" in options:
        assert [part.config._attn_implementation for part in parts] == ["eager"] * 2
    assert {weight.dtype for weight in loaded.parameters()} == {options.get("dtype", torch.float32)}
    assert torch.isfinite(loaded(**processor(PROMPTS, add_img_tokens=True)).conditioning["prompt_embeds"]).all()


def test_a_repository_that_lacks_a_weight_of_its_language_model_is_refused(model, tmp_path):
    referring(model, tmp_path, language_model_id=None).save_pretrained(tmp_path / "dream")
    file = tmp_path / "dream/model.safetensors"
    tensors = load_file(file)
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(OSError, match=r"lack 1 backbone tensors .*: language_model\.model\.norm\.weight"):
        GillForConditionalGeneration.from_pretrained(tmp_path / "dream")


def test_a_trained_language_model_is_saved_inside_and_comes_back(model, processor, tmp_path):
    made = referring(model, tmp_path)
    made.unfreeze_language_model()
    assert made.config.language_model_id is None and made.config.vision_model_id is not None
    with torch.no_grad():
        made.language_model.lm_head.weight.mul_(1.5)
    made.save_pretrained(tmp_path / "dream")
    loaded = GillForConditionalGeneration.from_pretrained(tmp_path / "dream")
    batch = processor(PROMPTS)
    assert torch.equal(loaded(**batch).logits, made(**batch).logits)
    assert not torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_a_language_model_that_was_changed_is_not_saved_as_a_reference_to_what_it_was(model, tmp_path):
    made = referring(model, tmp_path)
    made.save_pretrained(tmp_path / "dream")
    made.to(torch.bfloat16).float().save_pretrained(tmp_path / "dream")
    made.language_model.lm_head.weight.requires_grad_(True)
    with pytest.raises(ValueError, match=r"'lm_head.weight' of the language model was trained or replaced"):
        made.save_pretrained(tmp_path / "dream")
    made.language_model.lm_head.weight.requires_grad_(False).mul_(1.1)
    with pytest.raises(ValueError, match=r"'lm_head.weight' of the language model was trained or replaced"):
        made.save_pretrained(tmp_path / "dream")
    made.save_pretrained(tmp_path / "whole", self_contained=True)


def test_a_shard_of_a_weight_is_not_taken_for_another_weight(model, tmp_path):
    made = referring(model, tmp_path)
    head = made.language_model.lm_head
    head.weight = torch.nn.Parameter(head.weight[:1].clone(), requires_grad=False)
    made.save_pretrained(tmp_path / "dream")


def test_added_rows_are_saved_with_the_adapters_and_learn_with_the_language_model(processor, tmp_path):
    rows = processor.image_token_id
    added = list(range(rows, processor.image_output_token_ids[0]))
    model = small_dream_model(processor, num_rows=rows, added_token_ids=added)
    made = referring(model, tmp_path)
    made.save_pretrained(tmp_path / "dream")
    tensors = load_file(tmp_path / "dream/model.safetensors")
    assert {"added_embeddings.weight", "added_head.weight"} < {*tensors} and "language_model" not in str([*tensors])
    loaded = GillForConditionalGeneration.from_pretrained(tmp_path / "dream")
    batch = processor(PROMPTS, add_img_tokens=True)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert not loaded.added_head.weight.requires_grad
    loaded.unfreeze_language_model()
    assert loaded.added_head.weight.requires_grad and loaded.added_embeddings.weight.requires_grad


def test_lora_and_a_language_model_that_learns_exclude_each_other(model, tmp_path):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    made = referring(model, tmp_path)
    made.add_language_model_lora(lora)
    with pytest.raises(ValueError, match="carries LoRA"):
        made.unfreeze_language_model()
    made.save_pretrained(tmp_path / "lora")
    inside = referring(model, tmp_path, language_model_id=None)
    with pytest.raises(ValueError, match="LoRA needs a language model with a repository of its own"):
        inside.add_language_model_lora(lora)
