"""Adapters for a pretrained language model, with a tiny stand-in for it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from picturebook.arguments import EnglishArguments
from picturebook.checkpoint_folder import CHECKPOINT
from picturebook.models.smollm2 import load_smollm2_pipeline
from picturebook.stages.english_asking import texts_to_ask_at
from picturebook.stages.english_data import number_of_one, scenes_of_one
from picturebook.stages.english_images import image_in_words
from picturebook.stages.english_states import QUESTIONS, AskedModel, StateReader, as_chat, rows_of
from picturebook.stages.train_english import (
    FAST,
    asked_model,
    english_model,
    own_language_model,
    train_adapters_on_states,
)
from picturebook.stages.training_loop import Schedule
from picturebook.world.scene import BACKGROUNDS, COLOURS, KINDS, PLACES, Scene, SceneObject
from pipeline_gill import GillPipeline
from tests.small_model import small_tokenizer

TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)
TINY = replace(FAST, one=24, two=24, pairs=40, schedule=Schedule(3, 8, 2e-3, warmup=1), width=16, ffn=16)


def stand_in() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    tokenizer = small_tokenizer([])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.convert_tokens_to_ids("<|image|>"),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def asked_stand_in() -> AskedModel:
    return replace(english_model(*stand_in(), "Q4_1, random"), learns_to_ask=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GillPipeline]:
    out = tmp_path_factory.mktemp("english")
    base = GillPipeline.from_pretrained(CHECKPOINT)
    train_adapters_on_states(base, asked_stand_in(), TINY, out)
    return out, base


@pytest.mark.slow
def test_the_adapters_are_small_and_say_what_they_were_trained_on(trained: tuple[Path, GillPipeline]) -> None:
    folder = trained[0] / "adapters"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "record.json",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["language_model_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "Q4_1" in json.loads((folder / "record.json").read_text())["weights"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on(trained: tuple[Path, GillPipeline], capsys: pytest.CaptureFixture[str]) -> None:
    out, base = trained
    (out / "adapters" / "record.json").unlink()
    before = (out / "adapters" / "model.safetensors").read_bytes()
    train_adapters_on_states(base, asked_stand_in(), TINY, out)
    assert "states of" not in capsys.readouterr().out
    assert (out / "adapters" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_the_picture_book_answers_with_them(trained: tuple[Path, GillPipeline]) -> None:
    pipe = load_smollm2_pipeline(adapters=trained[0] / "adapters", language_model=stand_in())
    out = pipe(
        [{"role": "user", "content": "Draw a cottage, please."}],
        decision="both",
        force_image=True,
        num_inference_steps=1,
    )
    assert {image.source for image in out.image_pieces[0]} == {"retrieved", "generated"}


@pytest.mark.slow
def test_states_are_those_of_the_joined_model(trained: tuple[Path, GillPipeline]) -> None:
    pipe = load_smollm2_pipeline(adapters=trained[0] / "adapters", language_model=stand_in())
    texts = ["a red house", "Can you draw a very small boat on the left at night?", "hello"]
    model, tokenizer = stand_in()
    reader = StateReader(model, tokenizer, pipe.model.img_embeddings.weight.detach())
    states = reader.read([as_chat(text, tokenizer) for text in texts])
    for number, text in enumerate(texts):
        batch = pipe.processor([{"role": "user", "content": text}], add_img_tokens=True)
        with torch.no_grad():
            expected = pipe.model(**batch).img_hidden_states[0]
        assert torch.allclose(states[number], expected, atol=1e-4)


@pytest.mark.slow
def test_the_own_language_model_is_trained_equally(trained: tuple[Path, GillPipeline], tmp_path: Path) -> None:
    base = GillPipeline.from_pretrained(CHECKPOINT)
    folder = train_adapters_on_states(base, own_language_model(base), TINY, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["image_output_token_ids"] == base.model.config.image_output_token_ids


def test_options_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="one"):
        asked_model(None, EnglishArguments(Path("out"), random_weights=True, own_model=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embed"):
        asked_model(None, EnglishArguments(Path("out"), own_model=True, embed=True))  # type: ignore[arg-type]


def test_scenes_of_one_object_are_found_by_their_numbers() -> None:
    scenes = scenes_of_one()
    wanted = torch.tensor([[KINDS.index("boat"), COLOURS.index("blue"), PLACES.index("top"), BACKGROUNDS.index("sea")]])
    assert scenes[int(number_of_one(wanted))] == Scene((SceneObject("boat", "blue", "top"),), "sea")
    assert len({*scenes}) == len(scenes) == 768


def test_some_requests_and_some_other_texts_follow_on_an_image() -> None:
    _, tokenizer = stand_in()
    requests, others = texts_to_ask_at(tokenizer, np.random.default_rng(0))
    for texts in (requests, others):
        behind = [text for text in texts if "nothing</s>" in text]
        assert 0 < len(behind) < len(texts)
    assert any("nothingWhat colour is it?" in text for text in others)


def test_rows_are_those_of_the_questions_tokens() -> None:
    model, tokenizer = stand_in()
    ids = tokenizer(QUESTIONS, add_special_tokens=False).input_ids
    assert torch.equal(rows_of(model, tokenizer), model.get_input_embeddings().weight[ids])


def test_an_image_in_words_names_every_place() -> None:
    words = " ".join(image_in_words(Scene((SceneObject("boat", "red", "top"),), "night")))
    assert words == "night left nothing nothing right nothing nothing top red boat bottom nothing nothing"
