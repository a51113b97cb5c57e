"""What the language model is asked for, and how its answers are taken."""

import re

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from picturebook.models.language_model import (
    descriptions_of,
    initialize_weights,
    layouts_of,
    parse_full_caption,
    reduce_embedding_scale,
    words_ahead,
)
from picturebook.models.word_tokenizer import language_model_tokenizer
from picturebook.stages.train_language_model import with_images_in_words
from picturebook.world.caption_grammar import layout, parse_caption
from picturebook.world.documents import event_document, image_in_words
from picturebook.world.scene import Scene, SceneObject
from picturebook.world.splits import TEST, TRAIN, stories, stream
from tests.picturebook.scene_keys import scene_of_key


def test_exactly_the_words_of_descriptions_are_marked() -> None:
    tokenizer = language_model_tokenizer()
    texts = [
        "a house . picture : a red house at night . it turns blue . picture : a blue house .",
        "Q: can we see it ? A: picture : a house .",
    ]
    tokens = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    chosen = [
        " ".join(tokenizer.convert_ids_to_tokens(ids[mask].tolist()))
        for ids, mask in zip(tokens.input_ids, descriptions_of(tokens.input_ids, tokenizer), strict=True)
    ]
    assert chosen == ["a red house at night . a blue house .", "a house ."]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("a red house on the left at night", "night/left-red-house"),
        ("at night , a red house on the left", "night/left-red-house"),
        ("a red house at night", None),
        ("a red house on the left and a blue house on the right at night", None),
        ("it turns blue", None),
        ("", None),
    ],
)
def test_only_complete_captions_are_a_scene(said: str, key: str | None) -> None:
    assert parse_full_caption(said) == (None if key is None else scene_of_key(key))


def test_a_layout_has_two_words_for_each_place() -> None:
    two = Scene((SceneObject("boat", "blue", "bottom"), SceneObject("house", "red", "left")), "night")
    assert layout(two) == "night red house nothing nothing nothing nothing blue boat"
    assert layout(Scene(two.objects[:1], "sea")) == "sea red house nothing nothing nothing nothing nothing nothing"
    assert layout(two, name_places=True) == (
        "night red house left nothing nothing right nothing nothing top blue boat bottom"
    )


def test_an_image_in_words_follows_every_sentence_but_the_last() -> None:
    (story,) = stories(TEST, 1)
    text = with_images_in_words(story)
    assert text.count("(") == text.count(")") == 4 and text.endswith(f") {story.sentences[-1]} .")
    assert image_in_words(story.scenes[0]) in text


@pytest.fixture
def model() -> OPTForCausalLM:
    torch.manual_seed(0)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=60,
            hidden_size=96,
            word_embed_proj_dim=96,
            num_hidden_layers=1,
            ffn_dim=96,
            num_attention_heads=1,
            max_position_embeddings=64,
        )
    ).eval()
    initialize_weights(model)
    return model


def test_scaling_embeddings_changes_no_logits(model: OPTForCausalLM) -> None:
    words = torch.arange(4, 44)[None]
    with torch.no_grad():
        before = model(words).logits
        reduce_embedding_scale(model)
        after = model(words).logits
    assert model.get_input_embeddings().weight.std() < 0.11
    assert (before - after).abs().max() < 1e-3 * before.abs().max()


def test_at_the_start_words_attend_to_neighbours_and_to_the_same_word(model: OPTForCausalLM) -> None:
    model.set_attn_implementation("eager")
    words = torch.arange(4, 44)
    words[30] = words[10]
    attention = model(words[None], output_attentions=True).attentions[0][0, 0, 30]
    assert attention[10] > 2 * attention[11:20].max() and attention[20:30].mean() > attention[:10].mean()


def test_words_ahead_are_the_words_after_each_colon() -> None:
    tokenizer = language_model_tokenizer()
    texts = ["a house . picture : a red house at night .", "a house : a house ."]
    ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids
    ahead = words_ahead(ids, ids == tokenizer.convert_tokens_to_ids(":"), 7, tokenizer.pad_token_id)
    assert [tokenizer.decode(one, skip_special_tokens=True) for one in ahead] == ["a red house at night .", "a house ."]


def test_layouts_are_of_complete_descriptions_after_each_colon() -> None:
    tokenizer = language_model_tokenizer()
    texts = [
        "a red house : a red house . picture : a red house on the left at night : a red house on the left at night .",
        "Q: can we see it ? A: picture : a red house on the left at sea . is it there ? no .",
    ]
    told = ["", *2 * ["night red house" + 6 * " nothing"], "sea red house" + 6 * " nothing"]
    availability = ["", " yes", " yes", " no"]
    for with_availability in (False, True):
        found = tokenizer.batch_decode(layouts_of(texts, tokenizer, with_availability), skip_special_tokens=True)
        assert found == [
            f"{one}{availability_word if with_availability else ''}"
            for one, availability_word in zip(told, availability, strict=True)
        ]
    ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt").input_ids
    assert len(layouts_of(texts, tokenizer, True)) == int((ids == tokenizer.convert_tokens_to_ids(":")).sum())


def test_an_event_document_names_the_object_of_its_event() -> None:
    generator = stream(0, TRAIN, "events")
    for _ in range(40):
        opening, sentence, described = event_document(TRAIN, generator).split(" . ", 2)
        before = parse_caption(opening)
        assert before is not None and before.complete and len(before.objects) == 2
        assert sum(obj.kind in sentence.split() for obj in before.objects) >= 1
        after = parse_full_caption(re.split(" [.:]", described.removeprefix("picture : "))[0])
        assert after is not None and after != before.scene()
