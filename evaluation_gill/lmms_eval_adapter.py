"""Lets lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval) ask a model its questions about images.

    pip install lmms-eval
    python -m lmms_eval --model gill --model_args pretrained=org/gill --tasks mme,vqav2_val --batch_size 8

lmms-eval finds the model by the entry point `lmms_eval.models` of this package. It has the tasks, the metrics and the
splitting over processes; here are only prompts and answers. Images come before the question, in the chat template of
the repository, as DreamLLM's authors evaluate.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from modeling_gill import GillForConditionalGeneration, GillProcessor

try:
    from lmms_eval.api.model import lmms as _Base
except ImportError:  # this module is imported to look at it, too
    _Base = object

# What lmms-eval's own models take where a task does not say.
_MAX_NEW_TOKENS = 1024
# Arguments of tasks that `generate` takes as they are.
_PASSED_ON = ("num_beams", "repetition_penalty", "length_penalty", "top_k", "top_p")


def manifest() -> Any:
    """What the entry point returns: the name of the model, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="gill", simple_class_path=f"{__name__}.{GillLmms.__name__}", aliases=("dreamllm",))


class GillLmms(_Base):  # type: ignore[misc, valid-type]
    """
    A model for lmms-eval. Its answers are texts: the token that opens an image is never written.

    Args:
        pretrained (`str`): Repository or folder.
        revision (`str`, *optional*): Of the repository.
        dtype (`str`, defaults to `"bfloat16"`): Name of the dtype.
        device (`str`, *optional*): Where the model runs, by default what accelerate chooses for this process.
        batch_size (`int` or `str`, defaults to 1): Questions that are answered at once.
        use_chat_template (`bool`, defaults to `True`): Ask by the repository's chat template, or by the bare question.

    Raises:
        ImportError: lmms-eval is not installed. OSError, ValueError: the model cannot be loaded.
    """

    # Requests hold a text and its images, rather than chat messages.
    is_simple = True

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        dtype: str = "bfloat16",
        device: str | None = None,
        batch_size: int | str = 1,
        use_chat_template: bool = True,
        **kwargs: Any,
    ) -> None:
        if _Base is object:
            raise ImportError("lmms-eval is not installed; pip install lmms-eval")
        if kwargs:
            raise ValueError(f"`model_args` has the unknown {sorted(kwargs)[0]!r}.")
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = torch.device(device) if device and self._world_size == 1 else self.accelerator.device
        hub: dict[str, Any] = {} if revision is None else {"revision": revision}
        self.model = GillForConditionalGeneration.from_pretrained(pretrained, dtype=getattr(torch, dtype), **hub)
        self.model.to(self.device)
        self.processor = GillProcessor.from_pretrained(pretrained, **hub)
        self.batch_size, self.use_chat_template = int(batch_size), use_chat_template
        never = self.model.generation_config.suppress_tokens or []
        self._suppressed = sorted({*never, self.model.config.opening_token_id})

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers, in the order of the requests.

        Args:
            requests: Instances of lmms-eval, whose `args` are the question, the arguments of `generate` (`until` among
                them), a function from a document to its images, and where the document is.
        """
        answers: list[str] = [""] * len(requests)
        for numbers, options in self._batches(requests):
            prompts = [self._prompt(requests[number]) for number in numbers]
            batch = self.processor(prompts).to(self.device)
            written = self.model.generate(**batch, suppress_tokens=self._suppressed, **_generate_arguments(options))
            begin = batch["input_ids"].shape[1]
            texts = self.processor.batch_decode(written[:, begin:], skip_special_tokens=True)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = _cut(text, options.get("until")).strip()
                self.cache_hook.add_partial("generate_until", requests[number].args[:2], answers[number])
        return answers

    @torch.no_grad()
    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, summed over its tokens, and whether it is what greedy search writes.

        Args:
            requests: As for `generate_until`, with the continuation, or a function from a document to it, in place of
                the arguments.
        """
        found = []
        for request in requests:
            _, target, _, doc_id, task, split = request.args
            text = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
            batch = self.processor([self._prompt(request)]).to(self.device)
            ids = self.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            ids = ids.to(self.device)
            length = ids.shape[1]
            if not length:
                raise ValueError(f"The continuation {text!r} of document {doc_id} of {task!r} holds no token.")
            batch["input_ids"] = torch.cat([batch["input_ids"], ids], dim=1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            logits = self.model(**batch, use_cache=False, output_images=False, logits_to_keep=length + 1).logits
            logits = logits[0, -length - 1 : -1].float()
            scores = logits.log_softmax(-1).gather(-1, ids[0, :, None])
            found.append((float(scores.sum()), bool((logits.argmax(-1) == ids[0]).all())))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not there: tasks of several rounds.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("Tasks of several rounds are not supported; choose tasks of one.")

    def _prompt(self, request: Any) -> list[Any]:
        question, _, doc_to_visual, doc_id, task, split = request.args
        images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        parts = [{"type": "image", "image": image} for image in images]
        parts.append({"type": "text", "text": question})
        return [{"role": "user", "content": parts}] if self.use_chat_template else parts

    def _batches(self, requests: Sequence[Any]) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Numbers of requests with the same arguments, the longest questions first: too little memory shows early."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(number)
        for numbers in groups.values():
            numbers.sort(key=lambda number: -len(requests[number].args[0]))
            for begin in range(0, len(numbers), self.batch_size):
                batch = numbers[begin : begin + self.batch_size]
                yield batch, dict(requests[batch[0]].args[1])


def _generate_arguments(options: dict[str, Any]) -> dict[str, Any]:
    temperature = options.get("temperature") or 0
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    passed = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    if not sampling["do_sample"]:
        passed = {name: value for name, value in passed.items() if name not in ("top_k", "top_p")}
    return {"max_new_tokens": options.get("max_new_tokens", _MAX_NEW_TOKENS), **sampling, **passed}


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """A text up to the first of the strings that end it."""
    ends = [until] if isinstance(until, str) else list(until or ())
    return text[: min([text.find(end) for end in ends if end and end in text], default=len(text))]


__all__ = ["GillLmms", "manifest"]
