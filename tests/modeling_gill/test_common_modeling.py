"""What transformers' own testers ask of every model: embeddings, outputs, export, training by the plain Trainer."""

import copy

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.utils import ModelOutput

from modeling_gill import GillForConditionalGeneration
from tests.small_model import small_config, small_model, small_processor

PHOTO = Image.linear_gradient("L").resize((20, 30)).convert("RGB")
OTHER = Image.radial_gradient("L").resize((30, 20)).convert("RGB")


@pytest.fixture(scope="module")
def processor():
    return small_processor()


@pytest.fixture(scope="module")
def model(processor):
    return small_model(processor)


@pytest.fixture
def batch(processor):
    return processor([[PHOTO, "a cat"], "the dog runs over the mat"])


def test_embeddings_can_be_set_and_are_not_saved_twice(model):
    changed = copy.deepcopy(model)
    names = set(changed.state_dict())
    embeddings = nn.Embedding(changed.get_input_embeddings().num_embeddings, 24)
    head = nn.Linear(24, embeddings.num_embeddings, bias=False)
    changed.set_input_embeddings(embeddings)
    changed.set_output_embeddings(head)
    assert changed.get_input_embeddings() is changed.language_model.get_input_embeddings() is embeddings
    assert changed.get_output_embeddings() is changed.language_model.get_output_embeddings() is head
    assert set(changed.state_dict()) == names


def test_resizing_is_refused_before_anything_changes(model, tmp_path):
    changed = copy.deepcopy(model)
    rows = changed.get_input_embeddings().num_embeddings
    assert changed.resize_token_embeddings() is changed.resize_token_embeddings(rows) is changed.get_input_embeddings()
    before = changed.config.to_dict()
    with pytest.raises(ValueError, match=f"has {rows} rows and cannot be resized to {rows + 8}"):
        changed.resize_token_embeddings(rows + 8)
    assert changed.config.to_dict() == before and changed.get_input_embeddings().num_embeddings == rows
    changed.save_pretrained(tmp_path)


def test_image_features_are_the_output_of_the_image_encoder(model, batch):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    output = model.get_image_features(batch["pixel_values"], output_hidden_states=True, output_attentions=True)
    assert isinstance(output, BaseModelOutputWithPooling)
    assert output.pooler_output.shape == (1, model.config.vision_dim)
    assert len(output.hidden_states) == len(output.attentions) + 1 == 3
    as_tuple = model.get_image_features(batch["pixel_values"], return_dict=False)
    torch.testing.assert_close(as_tuple[1], output.pooler_output)
    embeds = model.get_image_retrieval_embeddings(batch["pixel_values"])
    torch.testing.assert_close(embeds, model.get_image_retrieval_embeddings(image_features=output.pooler_output))


@pytest.mark.parametrize("padding_side", ("left", "right"))
def test_the_retrieval_embedding_of_a_prompt_is_that_of_its_img_tokens(model, processor, padding_side):
    prompts = [[PHOTO, "a cat"], "the dog runs over the mat", [OTHER, "this", PHOTO]]
    expected = model(**processor(prompts, add_img_tokens=True)).retrieval_embeds
    for add_img_tokens in (False, True):
        batch = dict(processor(prompts, add_img_tokens=add_img_tokens))
        if padding_side == "right":
            lengths = batch["attention_mask"].sum(1).tolist()
            for name in ("input_ids", "attention_mask"):
                rows = zip(batch[name], lengths, strict=True)
                batch[name] = torch.stack([row.roll(length) for row, length in rows])
        found = model.get_text_retrieval_embeddings(**batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_outputs_are_transformers_own_as_dictionary_and_as_tuple(model, batch):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    assert isinstance(output, CausalLMOutputWithPast) and isinstance(output, ModelOutput)
    assert len(output.hidden_states) == len(output.attentions) + 1 == 3
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], output.logits)


def test_logits_to_keep_are_the_last_ones(model, batch):
    whole = model(**batch).logits
    torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, whole[:, -2:])
    columns = torch.tensor([1, 3])
    torch.testing.assert_close(model(**batch, logits_to_keep=columns).logits, whole[:, columns])


def test_embeddings_in_place_of_ids_give_the_same(model, batch):
    embeds = model.embed_prompt(batch["input_ids"], batch["pixel_values"])
    found = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
    torch.testing.assert_close(found.logits, model(**batch).logits)


def test_a_batch_and_its_rows_alone_give_the_same(model, processor, batch):
    together = model(**batch).logits
    for row, prompt in enumerate(([PHOTO, "a cat"], "the dog runs over the mat")):
        alone = model(**processor([prompt])).logits[0]
        torch.testing.assert_close(together[row, -len(alone) :], alone, atol=1e-5, rtol=1e-5)


def test_a_forward_pass_is_exported_with_any_length(model, processor):
    batch = processor([[PHOTO, "a cat on a mat"]])
    length = torch.export.Dim("length", min=4, max=64)
    exported = torch.export.export(
        model,
        (),
        kwargs={**batch, "use_cache": False},
        dynamic_shapes={
            "input_ids": {1: length},
            "attention_mask": {1: length},
            "pixel_values": None,
            "use_cache": None,
        },
        strict=False,
    ).module()
    other = processor([[PHOTO, "the dog"]])
    for given in (batch, other):
        found = exported(**given, use_cache=False)
        torch.testing.assert_close(found.logits, model(**given).logits, atol=1e-5, rtol=1e-5)


def test_a_forward_pass_compiles_without_graph_breaks(model, batch):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**batch, use_cache=False).logits, model(**batch).logits, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_adapters_with_gradient_checkpointing_too(processor, batch):
    found = []
    for checkpointing in (False, True):
        model = small_model(processor).train()
        model.language_model.eval()
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.language_model.train()
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
        found.append(model.visual_projection.weight.grad)
        assert all(weight.grad is None for weight in model.language_model.parameters())
    torch.testing.assert_close(*found)


def test_the_plain_trainer_accumulates_gradients_as_one_large_batch(processor, tmp_path):
    rows = [processor([text]) for text in ("a cat", "the dog runs over the mat", "a car", "the sun")]
    longest = max(row["input_ids"].shape[1] for row in rows)
    data = []
    for row in rows:
        missing = longest - row["input_ids"].shape[1]
        ids = nn.functional.pad(row["input_ids"][0], (missing, 0), value=1)
        mask = nn.functional.pad(row["attention_mask"][0], (missing, 0))
        data.append({"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    losses, weights = [], []
    for steps in (1, 2, 4):
        model = small_model(processor)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(steps)),
            per_device_train_batch_size=4 // steps,
            gradient_accumulation_steps=steps,
            max_steps=1,
            logging_steps=1,
            learning_rate=1e-2,
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        weights.append(model.img_embeddings.weight.detach())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    for weight in weights[1:]:
        torch.testing.assert_close(weight, weights[0], atol=1e-6, rtol=1e-5)


def test_the_any_to_any_pipeline_of_transformers_runs_the_model(model, processor, tmp_path, monkeypatch):
    from transformers import pipeline
    from transformers.pipelines import any_to_any

    # The pipeline asks for torchvision, which only its other processors need.
    monkeypatch.setattr(any_to_any, "requires_backends", lambda *_: None)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline("any-to-any", model=str(tmp_path))
    assert type(pipe.model) is GillForConditionalGeneration
    message = {"role": "user", "content": [{"type": "image", "image": PHOTO}, {"type": "text", "text": "a cat"}]}
    for inputs in (
        {"text": "the dog"},
        {"images": PHOTO, "text": processor.image_token + " a cat"},
        {"text": [message]},
    ):
        assert pipe(**inputs, max_new_tokens=3)[0]["generated_text"]


def test_a_fresh_model_has_finite_weights_of_its_own(processor):
    torch.manual_seed(0)
    model = GillForConditionalGeneration(small_config(processor))
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert not any(weight.requires_grad for weight in model.language_model.parameters())
    assert model.logit_scale.item() == pytest.approx(2.6593, abs=1e-4)
