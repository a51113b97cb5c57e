"""Many people ask one model: who waits, who is answered together, who is stopped, who is refused."""

import queue
import threading
from typing import Any

import pytest
from PIL import Image

from chat_gill import AnswerEngine, AnswerSettings, ChatLimits
from chat_gill.answer_request import Answer, AnswerImage, Event, Failure, PartialAnswer, Waiting
from chat_gill.batch import fit_dialogue, num_tokens
from chat_gill.limits import RequestRefused

# Quick to answer.
FOUND = AnswerSettings(decision="retrieve")


def said(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def until_the_end(events: "queue.SimpleQueue[Event]") -> list[Event]:
    seen: list[Event] = []
    while not seen or not isinstance(seen[-1], Answer | Failure):
        seen.append(events.get(timeout=60))
    return seen


class Held:
    """A pipeline that waits before every call until it is let go, and counts the prompts of each call."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.go, self.begun = threading.Semaphore(0), threading.Semaphore(0)
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    def __call__(self, messages: Any, **arguments: Any) -> Any:
        self.begun.release()
        self.go.acquire(timeout=60)
        self.sizes.append(len(messages))
        return self._pipe(messages, **arguments)


@pytest.fixture
def held(pipe: Any) -> Any:
    held = Held(pipe)
    engine = AnswerEngine(lambda: held, ChatLimits(max_batch_size=4, max_waiting=6, max_waiting_per_visitor=2))
    yield held, engine
    held.go.release(100)
    engine.close()


def test_text_comes_first_then_the_place_of_the_image_then_its_progress_then_all_of_it(engine: AnswerEngine) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    settings = AnswerSettings(decision="generate", num_inference_steps=3)
    engine.submit(said("Draw a blue boat at sea."), settings, report=events.put, seed=1)
    waiting, *partial, answer = until_the_end(events)
    assert isinstance(waiting, Waiting) and isinstance(answer, Answer)
    texts = [event.pieces[0] for event in partial if isinstance(event, PartialAnswer) and event.pieces]
    assert texts[0] != texts[-1] and texts[-1].startswith(texts[0])
    shown = [(event.pieces.count(None), event.step, event.steps) for event in partial]
    assert shown[0] == (0, 0, 0) and shown[-4:] == [(1, 0, 0), (1, 1, 3), (1, 2, 3), (1, 3, 3)]
    assert isinstance(answer.pieces[1], AnswerImage) and answer.pieces[1].chosen.source == "generated"


def test_the_same_seed_draws_the_same_image_and_no_seed_another(engine: AnswerEngine) -> None:
    settings = AnswerSettings(decision="generate", num_inference_steps=3)
    images = [engine.answer(said("a red house"), settings, seed=seed).pieces[-1].chosen.image for seed in (5, 5, None)]
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()


def test_the_image_that_was_decided_against_comes_with_the_other(engine: AnswerEngine) -> None:
    image = engine.answer(said("a red house on the left at night")).pieces[-1]
    assert {image.chosen.source, image.other.source} == {"retrieved", "generated"}
    assert image.chosen.decision == ("retrieve" if image.chosen.source == "retrieved" else "generate")
    alone = engine.answer(said("a red house on the left at night"), AnswerSettings(show_other=False)).pieces[-1]
    assert alone.chosen.source == image.chosen.source and alone.other is None


def test_an_image_that_was_uploaded_is_read(engine: AnswerEngine, pipe: Any) -> None:
    shown = engine.answer(said("a red house on the left at night"), AnswerSettings(decision="retrieve")).pieces[-1]
    content = [{"type": "image", "image": shown.chosen.image}, {"type": "text", "text": "Then it turns blue."}]
    answer = engine.answer([{"role": "user", "content": content}])
    assert answer.pieces[0].strip() == "a blue house on the left at night"


def test_those_who_wait_are_answered_together_and_each_gets_his_own_answer(held: Any) -> None:
    pipe, engine = held
    first: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(said("a red house"), FOUND, report=first.put)
    pipe.begun.acquire(timeout=60)  # it runs alone
    asked = ["a blue boat at sea", "a yellow fish", "a green tree in the snow"]
    queues: list[queue.SimpleQueue[Event]] = [queue.SimpleQueue() for _ in asked]
    for number, text in enumerate(asked):
        engine.submit(said(text), FOUND, report=queues[number].put, visitor=str(number))
    engine.submit(
        said("a cat"), AnswerSettings(decision="retrieve", max_images=2), report=first.put, visitor="other settings"
    )
    pipe.go.release(10)
    for text, events in zip(asked, queues, strict=True):
        assert until_the_end(events)[-1].pieces[0].strip() == text
    until_the_end(first)
    until_the_end(first)
    assert pipe.sizes == [1, 3, 1]


def test_a_stop_frees_the_place_of_who_waits(held: Any) -> None:
    pipe, engine = held
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    running = engine.submit(said("a red house"), FOUND, report=events.put, visitor="ann")
    pipe.begun.acquire(timeout=60)
    waiting = engine.submit(said("a cat"), FOUND, report=events.put, visitor="ann")
    with pytest.raises(RequestRefused, match="still being answered"):
        engine.submit(said("a fish"), FOUND, report=events.put, visitor="ann")
    waiting.stop()
    running.stop()
    engine.submit(said("a fish"), FOUND, report=events.put, visitor="ann")
    pipe.go.release(10)
    while not (isinstance(event := events.get(timeout=60), Answer) and event.pieces[0].strip() == "a fish"):
        pass
    assert len(pipe.sizes) == 2


def test_a_stop_ends_a_drawing(engine: AnswerEngine) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    settings = AnswerSettings(decision="generate", num_inference_steps=100)
    request = engine.submit(said("a red house"), settings, report=events.put)
    while not (isinstance(event := events.get(timeout=60), PartialAnswer) and event.step):
        pass
    request.stop()
    assert [event for event in until_the_end(events) if isinstance(event, PartialAnswer) and event.step > 3] == []


def test_whoever_comes_when_many_wait_is_asked_to_come_again(held: Any) -> None:
    _, engine = held
    for number in range(6):
        engine.submit(said("a cat"), FOUND, report=print, visitor=str(number))
    with pytest.raises(RequestRefused, match="Many people are waiting"):
        engine.submit(said("a cat"), FOUND, report=print, visitor="late")


def test_an_answer_that_takes_too_long_is_given_up(pipe: Any) -> None:
    held = Held(pipe)
    engine = AnswerEngine(lambda: held, ChatLimits(max_seconds=0.2))
    threading.Timer(0.5, held.go.release).start()
    with pytest.raises(RequestRefused, match="took too long"):
        engine.answer(said("a cat"))
    engine.close()


def test_what_is_wrong_with_one_request_is_not_said_to_another(held: Any) -> None:
    pipe, engine = held
    engine.submit(said("a red house"), FOUND, report=lambda event: None)
    good: queue.SimpleQueue[Event] = queue.SimpleQueue()
    bad: queue.SimpleQueue[Event] = queue.SimpleQueue()
    pipe.begun.acquire(timeout=60)
    engine.submit(said("a cat"), FOUND, report=good.put, visitor="good")
    engine.submit([{"role": "user", "content": [{"type": "image", "image": "/etc/hostname"}]}], FOUND, report=bad.put)
    pipe.go.release(10)
    assert isinstance(until_the_end(good)[-1], Answer)
    failure = until_the_end(bad)[-1]
    assert isinstance(failure, Failure) and "memory" in failure.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decision": "both"}, "expected one of auto, retrieve, generate"),
        ({"max_images": 50}, "number of images is 50; expected 1 to 4"),
        ({"num_inference_steps": 10_000}, "number of steps is 10000"),
        ({"num_images_per_prompt": 0}, "number of candidates is 0"),
        ({"image_token_scale": float("nan")}, "image token scale"),
    ],
)
def test_settings_beyond_the_limits_are_refused(engine: AnswerEngine, settings: Any, message: str) -> None:
    with pytest.raises(RequestRefused, match=message):
        engine.answer(said("a cat"), AnswerSettings(**settings))


def test_a_model_that_cannot_be_loaded_is_said_to_everybody() -> None:
    def load() -> Any:
        raise OSError("no such repository")

    engine = AnswerEngine(load)
    with pytest.raises(RequestRefused, match="could not be loaded: no such repository"):
        engine.answer(said("a cat"))
    with pytest.raises(RuntimeError, match="no such repository"):
        engine.pipeline()
    engine.close()


def test_without_streaming_the_answer_is_the_same(pipe: Any) -> None:
    """As on ZeroGPU, where the pipeline runs in another process."""
    calls = []

    def gpu(function: Any) -> Any:
        def decorated(*arguments: Any) -> Any:
            calls.append(arguments)
            return function(*arguments)

        return decorated

    engine = AnswerEngine(lambda: pipe, gpu=gpu)
    settings = AnswerSettings(decision="generate", num_inference_steps=3)
    image = engine.answer(said("a red house"), settings, seed=5).pieces[-1].chosen.image
    engine.close()
    assert len(calls) == 1 and isinstance(image, Image.Image)


def test_of_a_long_dialogue_the_model_reads_the_end_that_leaves_room_for_an_answer(pipe: Any) -> None:
    said = "a red house on the left . " * 8
    dialogue = [{"role": role, "content": [{"type": "text", "text": said}]} for role in ("user", "assistant") * 5]
    dialogue.append({"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (32, 32))}]})
    assert num_tokens(pipe, dialogue) > pipe.model.config.max_position_embeddings
    read = fit_dialogue(pipe, dialogue, AnswerSettings())
    assert read and read == dialogue[-len(read) :] and read[0]["role"] == "user"
    assert num_tokens(pipe, read) + 32 + 8 <= pipe.model.config.max_position_embeddings
    assert num_tokens(pipe, dialogue[-len(read) - 2 :]) + 32 + 8 > pipe.model.config.max_position_embeddings


def test_an_image_of_another_scene_owes_nothing_to_the_one_before(engine: AnswerEngine) -> None:
    before = [*said("show me a cat"), {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]}]
    settings = AnswerSettings(decision="generate", num_inference_steps=2)
    alone, after = (
        engine.answer([*earlier, *said("a red house on the left")], settings, seed=3).pieces[-1].chosen.image
        for earlier in ([], before)
    )
    assert alone.tobytes() == after.tobytes()


def test_a_message_that_is_too_long_alone_is_refused_with_both_lengths(pipe: Any, engine: AnswerEngine) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "a red house on the left . " * 60}]}]
    with pytest.raises(RequestRefused, match=r"That is \d{3} tokens .* reads 280 at most"):
        engine.answer(said)
