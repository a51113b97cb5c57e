"""Run requests through the pipeline together, and report their partial answers while it runs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from pipeline_gill import GillPipeline

from .answer_request import Answer, AnswerSettings, Failure, PartialAnswer, Request, group_pieces
from .limits import TOO_LATE, RequestRefused
from .words import current_dialogue

# Typed text and uploads alone: no text of a visitor is a file or an address of the server's network.
ALLOWED_IMAGE_SOURCES = ("memory",)


class AnswersSoFar(BaseStreamer):
    """Reports the texts of every row of a batch as they are generated.

    transformers' own streamers take one row.

    Args:
        pipe ([`GillPipeline`]): Whose processor splits an answer into texts and images.
        requests (`Sequence[Request]`): One for each row.
        steps (`int`): Of the image generator.
    """

    def __init__(self, pipe: GillPipeline, requests: Sequence[Request], steps: int) -> None:
        self.pipe, self.requests, self.steps = pipe, requests, steps
        self._ids: list[list[int]] | None = None
        self._reported: list[tuple[str | None, ...]] = [() for _ in requests]

    def put(self, value: torch.Tensor) -> None:
        """
        Args:
            value (`torch.Tensor` of shape `(batch_size, sequence_length)` or `(batch_size,)`):
                The prompts, and after them one token of each row at a time.
        """
        if self._ids is None:
            self._ids = [[] for _ in self.requests]
            return
        for row, token in enumerate(value.tolist()):
            self._ids[row].append(token)
            pieces = self.pipe.processor.split_answer(self._ids[row], self.requests[row].settings.max_images)
            # Half of a character of several bytes is not shown.
            found = tuple(piece.rstrip("\ufffd") if isinstance(piece, str) else None for piece in pieces)
            if found != self._reported[row]:
                self._reported[row] = found
                self.requests[row].report(PartialAnswer(found))

    def end(self) -> None:
        """Nothing is left to report: every token was reported when it came."""

    def on_step_end(self, pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Of the image generator, as diffusers' `callback_on_step_end`: reports it, and stops where nobody waits."""
        for request, pieces in zip(self.requests, self._reported, strict=True):
            if None in pieces:
                request.report(PartialAnswer(pieces, step + 1, self.steps))
        if all(request.is_over for request in self.requests):
            pipe._interrupt = True
        return tensors


class StoppedRequests(StoppingCriteria):
    """Ends the rows of requests that are over."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Args and return: ids of shape `(batch_size, sequence_length)`, booleans of shape `(batch_size,)`."""
        return torch.tensor([request.is_over for request in self.requests], device=input_ids.device)


def fit_dialogue(pipe: GillPipeline, messages: list[Any], settings: AnswerSettings) -> list[Any]:
    """The end of a dialogue that leaves room for an answer among the positions that the language model has.

    Args:
        messages (`list[dict]`): Chat messages whose images are PIL images; the oldest are left out first.
        settings ([`AnswerSettings`]): Say how long an answer can get.

    Raises:
        RequestRefused: the last message alone is too long.
    """
    positions = pipe.model.config.max_position_embeddings
    if positions is None:
        return messages
    # The pipeline cuts its own default to what is left, so a quarter of the positions is enough for that.
    by_default = min(pipe.model.generation_config.max_new_tokens or 32, positions // 4)
    answer = settings.max_new_tokens or by_default
    answer += settings.max_images * len(pipe.processor.image_output_token_ids)
    while True:
        length = num_tokens(pipe, messages)
        if length + answer <= positions:
            return messages
        if len(messages) == 1:
            raise RequestRefused(
                f"That is {length} tokens with its images, and this model reads {max(positions - answer, 0)} at most. "
                "Please write less."
            )
        messages = messages[2:] if len(messages) > 2 else messages[1:]


def num_tokens(pipe: GillPipeline, messages: Sequence[Any]) -> int:
    """Tokens of a dialogue as the model reads it. Every image takes as many, so the smallest one stands for all."""
    smallest = Image.new("RGB", (1, 1))
    dialogue = [
        {
            **message,
            "content": [
                {"type": "image", "image": smallest} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        if not isinstance(message["content"], str)
        else message
        for message in messages
    ]
    return int(pipe.processor([dialogue], allowed_image_sources=ALLOWED_IMAGE_SOURCES)["input_ids"].shape[1])


def call_pipeline(
    pipe: GillPipeline, messages: list[Any], seeds: list[int], arguments: dict[str, Any], **watching: Any
) -> list[Any]:
    """The answers to dialogues, each with random numbers of its own seed."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(
        messages, generator=generators, allowed_image_sources=ALLOWED_IMAGE_SOURCES, **arguments, **watching
    ).answers


def run_batch(pipe: GillPipeline, requests: Sequence[Request], call: Callable[..., Any] | None = None) -> None:
    """Answer requests of the same settings together, and report each answer or failure.

    Args:
        pipe ([`GillPipeline`]): Answers.
        requests (`Sequence[Request]`): With the same settings; each has a seed of its own.
        call (`Callable`, *optional*):
            [`call_pipeline`] without its first argument, where it runs in another process, as on ZeroGPU: partial
            answers are not reported then.
    """
    settings = requests[0].settings
    arguments = settings.for_pipeline(can_choose=pipe.retrieval_set is not None and pipe.has_image_generator)
    seeds = [request.seed for request in requests]
    try:
        dialogues = [current_dialogue(pipe.processor, request.messages) for request in requests]
        messages = [fit_dialogue(pipe, dialogue, settings) for dialogue in dialogues]
        if call is not None:
            answers = call(messages, seeds, arguments)
        else:
            steps = arguments.get("num_inference_steps") or pipe.config.num_inference_steps
            so_far = AnswersSoFar(pipe, requests, steps)
            stopping = StoppingCriteriaList([StoppedRequests(requests)])
            answers = call_pipeline(
                pipe,
                messages,
                seeds,
                arguments,
                streamer=so_far,
                stopping_criteria=stopping,
                callback_on_step_end=so_far.on_step_end,
            )
    except ValueError as error:
        if len(requests) > 1:  # the fault of one of them
            for request in requests:
                run_batch(pipe, [request], call)
            return
        requests[0].report(Failure(str(error)))
        return
    for request, pieces in zip(requests, answers, strict=True):
        if request.is_late:
            request.report(Failure(TOO_LATE))
        else:
            request.report(Answer(group_pieces(pieces, arguments["decision"] == "both"), request.seed))


__all__ = [
    "ALLOWED_IMAGE_SOURCES",
    "AnswersSoFar",
    "StoppedRequests",
    "call_pipeline",
    "fit_dialogue",
    "run_batch",
]
