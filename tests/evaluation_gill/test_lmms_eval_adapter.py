"""lmms-eval can ask a model: its interface is played by a stand-in, with a task of three questions."""

import abc
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from evaluation_gill.systems import GillSystem, Prompt
from pipeline_gill import GillPipeline


class Lmms(abc.ABC):
    """What `lmms_eval.api.model.lmms` has that models and the evaluator use."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.cache_hook = SimpleNamespace(add_partial=lambda name, arguments, answer: self.cached.append(answer))
        self.task_dict: dict[str, Any] = {}
        self.cached: list[str] = []

    @abc.abstractmethod
    def loglikelihood(self, requests): ...

    @abc.abstractmethod
    def generate_until(self, requests): ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests): ...

    rank = property(lambda self: self._rank)
    world_size = property(lambda self: self._world_size)


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, content in (
        ("lmms_eval", {}),
        ("lmms_eval.api", {}),
        ("lmms_eval.models", {}),
        ("lmms_eval.api.model", {"lmms": Lmms}),
        ("lmms_eval.models.registry_v2", {"ModelManifest": ModelManifest}),
    ):
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "evaluation_gill.lmms_eval_adapter", raising=False)
    yield importlib.import_module("evaluation_gill.lmms_eval_adapter")
    sys.modules.pop("evaluation_gill.lmms_eval_adapter", None)


DOCS = ["what is this ?", "is there a dog in the picture ? answer yes or no .", "where ?"]


def requests_of(model: Any, images: list[Image.Image], options: list[dict[str, Any]]) -> list[Any]:
    model.task_dict = {"tiny": {"test": [{"question": text, "image": i} for i, text in enumerate(DOCS)]}}

    def doc_to_visual(doc: dict[str, Any]) -> list[Image.Image]:
        return [images[doc["image"]]] if doc["image"] else []

    return [SimpleNamespace(args=(text, options[i], doc_to_visual, i, "tiny", "test")) for i, text in enumerate(DOCS)]


@pytest.fixture
def model(adapter: ModuleType, golden_repository: Path) -> Any:
    return adapter.GillLmms(
        str(golden_repository), dtype="float32", device="cpu", batch_size=2, use_chat_template=False
    )


def test_answers_are_the_models_in_the_order_of_the_questions(model, golden_pipeline: GillPipeline, images) -> None:
    options = [{"max_new_tokens": 6, "temperature": 0, "top_p": None, "until": ["\n\n"]}] * 3
    answers = model.generate_until(requests_of(model, images, options))
    assert len(model.cached) == 3
    for number, text in enumerate(DOCS):
        prompt = [images[number], text] if number else text
        batch = golden_pipeline.processor([prompt])
        ids = golden_pipeline.model.generate(**batch, max_new_tokens=6, suppress_tokens=model._suppressed)
        alone = golden_pipeline.processor.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answers[number] == alone[0].strip()


def test_no_answer_opens_an_image(model, images) -> None:
    # Even at the temperature at which every token is as likely as any other.
    options = [{"max_new_tokens": 40, "temperature": 1e6}] * 3
    answers = model.generate_until(requests_of(model, images, options))
    assert model._suppressed == [model.model.config.image_output_token_ids[0]]
    assert all(answers)


def test_answers_end_where_the_task_says_and_each_task_has_its_arguments(model, images) -> None:
    whole = model.generate_until(requests_of(model, images, [{"max_new_tokens": 6}] * 3))
    options = [{"max_new_tokens": 6, "until": whole[0][2:4]}, {"max_new_tokens": 1}, {"max_new_tokens": 6}]
    answers = model.generate_until(requests_of(model, images, options))
    assert answers[0] == whole[0][:2].strip()
    assert whole[1].startswith(answers[1]) and len(answers[1]) < len(whole[1])
    assert answers[2] == whole[2]


def test_likelihoods_are_those_of_the_evaluation(model, golden_pipeline: GillPipeline, images) -> None:
    system = GillSystem(golden_pipeline, "golden")
    requests = requests_of(model, images, ["a red dog", lambda doc: "yes", " "])
    found = model.loglikelihood(requests)
    expected = system.answer_scores([Prompt((DOCS[0],))], [["a red dog"]], batch_size=1)[0][0]
    assert found[0][0] == pytest.approx(expected, rel=1e-4)
    assert [type(is_greedy) for _, is_greedy in found] == [bool] * 3


def test_the_entry_point_names_the_class(adapter) -> None:
    found = adapter.manifest()
    module, _, name = found.simple_class_path.rpartition(".")
    assert getattr(importlib.import_module(module), name) is adapter.GillLmms
    assert issubclass(adapter.GillLmms, Lmms) and adapter.GillLmms.is_simple


def test_what_cannot_work_is_told(adapter, model, golden_repository) -> None:
    with pytest.raises(NotImplementedError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(ValueError, match="'conv_template'"):
        adapter.GillLmms(str(golden_repository), conv_template="x")


def test_without_lmms_eval_the_module_says_what_is_missing() -> None:
    module = importlib.import_module("evaluation_gill.lmms_eval_adapter")
    with pytest.raises(ImportError, match="pip install lmms-eval"):
        module.GillLmms("org/gill")
