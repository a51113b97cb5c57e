"""Answers of a model over a language model that was taught chats."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LogitsProcessor, LogitsProcessorList, OPTConfig

from modeling_gill import GillProcessor
from pipeline_gill import GillPipeline
from pipeline_gill.frozen_models import FrozenModel, generation_config
from tests.modeling_gill.test_chat_template_gill import SMOLLM2
from tests.small_model import small_model, small_processor

END, OTHER_END = 40, 41
# A short one: the small model reads 96 tokens.
SHORT = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"


class Writes(LogitsProcessor):
    """Has the model write these tokens."""

    def __init__(self, ids: list[int], begin: int) -> None:
        self.ids, self.begin = ids, begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self.ids[min(input_ids.shape[1] - self.begin, len(self.ids) - 1)]] = 0
        return forced


def chat_pipeline(template: str | None = SHORT) -> GillPipeline:
    plain = small_processor()
    tokenizer = copy.deepcopy(plain.tokenizer)
    tokenizer.chat_template = template
    processor = GillProcessor(plain.image_processor, tokenizer, 2, plain.img_tokens)
    model = small_model(processor)
    return GillPipeline(model, processor, None, None, None, None, None)


def answer(pipe: GillPipeline, written: str, end: int, **options: Any) -> list[Any]:
    ids = [*pipe.processor.tokenizer(written, add_special_tokens=False).input_ids, end, 50]
    begin = pipe.processor([[{"role": "user", "content": "a cat"}]])["input_ids"].shape[1]
    forced = LogitsProcessorList([Writes(ids, begin)])
    return pipe([{"role": "user", "content": "a cat"}], logits_processor=forced, **options).answers[0]


@pytest.mark.parametrize("end", (END, OTHER_END))
def test_an_answer_ends_at_an_end_token_and_not_at_a_newline(end):
    pipe = chat_pipeline()
    pipe.model.generation_config.eos_token_id = [END, OTHER_END]
    pipe.model.generation_config.max_new_tokens = 30
    pipe.processor.tokenizer.add_special_tokens(
        {"extra_special_tokens": pipe.processor.tokenizer.convert_ids_to_tokens([END, OTHER_END])},
        replace_extra_special_tokens=False,
    )
    assert answer(pipe, "a cat . the dog\na mat", end) == ["a cat . the dog\na mat"]
    assert answer(pipe, "a cat . the dog\na mat", end, truncate_text=True) == ["a cat ."]


def test_variables_of_the_chat_template_are_arguments_of_a_call(monkeypatch):
    pipe = chat_pipeline(SHORT + "{% if enable_thinking is defined and not enable_thinking %}</think>{% endif %}")
    read: list[str] = []
    generate = type(pipe.model).generate

    def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(pipe.processor.tokenizer.decode(kwargs["input_ids"][0]))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(pipe.model), "generate", note)
    chat = [{"role": "user", "content": "a cat"}]
    for options in ({}, {"chat_template_kwargs": {"enable_thinking": False}}):
        pipe(chat, max_new_tokens=2, **options)
    assert read[1] == read[0] + "</think>"
    with pytest.raises(ValueError, match="has 'thinking', which the chat template does not read"):
        pipe(chat, chat_template_kwargs={"thinking": False})


def test_the_papers_answers_end_where_they_did():
    pipe = chat_pipeline(None)
    assert answer(pipe, "a cat . the dog\na mat", END) == ["a cat ."]


def test_the_number_of_tokens_is_that_of_the_model_unless_told_otherwise():
    pipe = chat_pipeline()
    pipe.model.generation_config.max_new_tokens = 5
    ids = pipe.processor.tokenizer("a cat . the dog a mat the dog", add_special_tokens=False).input_ids

    def count(**options: Any) -> int:
        (text,) = answer(pipe, "a cat . the dog a mat the dog", 60, **options)
        return len(pipe.processor.tokenizer(text, add_special_tokens=False).input_ids)

    assert len(ids) > 7
    assert count() == 5 and count(max_new_tokens=7) == 7


def test_where_less_room_is_left_than_the_default_the_answer_is_shorter():
    pipe = chat_pipeline()
    pipe.model.generation_config.max_new_tokens = 256
    (text,) = answer(pipe, "a cat", 60)
    assert len(text) > 60
    with pytest.raises(ValueError, match="more than the 96"):
        answer(pipe, "a cat", 60, max_new_tokens=256)


def write_tokenizer(folder: Path, template: str | None, config: dict[str, Any] | None) -> FrozenModel:
    tokenizer = copy.deepcopy(small_processor().tokenizer)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    if config is not None:
        (folder / "generation_config.json").write_text(json.dumps(config))
    return FrozenModel("language model", str(folder), "`language_model`")


def config_of(model: FrozenModel) -> Any:
    return generation_config(
        model, OPTConfig(eos_token_id=9, bos_token_id=8), AutoTokenizer.from_pretrained(model.name)
    )


def test_the_language_models_own_generation_config_is_taken_over(tmp_path):
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [END, OTHER_END], "max_length": 4096}
    found = config_of(write_tokenizer(tmp_path, SMOLLM2, own))
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.95)
    assert found.eos_token_id == [END, OTHER_END, 2]  # and the tokenizer's own
    assert (found.pad_token_id, found.max_new_tokens) == (1, 256)
    found.save_pretrained(tmp_path / "saved")


def test_a_generation_config_whose_values_contradict_each_other_can_be_saved(tmp_path):
    found = config_of(write_tokenizer(tmp_path, SMOLLM2, {"do_sample": False, "temperature": 0.6, "eos_token_id": END}))
    assert found.eos_token_id == [END, 2]
    found.save_pretrained(tmp_path / "saved")


def test_without_a_generation_config_the_end_tokens_are_those_of_the_model_and_of_its_tokenizer(tmp_path):
    found = config_of(write_tokenizer(tmp_path, SMOLLM2, None))
    assert found.eos_token_id == [9, 2] and not found.do_sample


def test_a_language_model_without_a_template_decodes_as_in_the_paper(tmp_path):
    found = config_of(write_tokenizer(tmp_path, None, {"do_sample": True, "eos_token_id": END}))
    assert not found.do_sample and found.eos_token_id is None and found.max_new_tokens == 32
