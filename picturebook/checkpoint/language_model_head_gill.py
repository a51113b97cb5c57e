"""What a language model does to its embeddings and logits, tried when it is joined, whatever its family is called.

Its own `forward` runs over a stand-in for the decoder and one for the head, so that no weight is read.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast


class UnsupportedLanguageModel(ValueError):
    """A language model that would be wrong between GILL's adapters; the message names it and the reason."""


@dataclass(frozen=True)
class LogitTransform:
    """
    From last hidden states over the raw output of the head to logits, as the language model computes them.

    Attributes:
        state_scale (`float`): Factor on the states before the head.
        scale (`float`): Factor on the head's output.
        cap (`float`, *optional*): Bound `c` of `c tanh(scale x / c)` (Gemma 2's soft-capping).
    """

    state_scale: float = 1.0
    scale: float = 1.0
    cap: float | None = None

    def scale_states(self, states: torch.Tensor) -> torch.Tensor:
        """What the head reads for the last hidden states."""
        return states if self.state_scale == 1.0 else states * self.state_scale

    def __call__(self, raw_logits: torch.Tensor) -> torch.Tensor:
        """Logits from the output of the head, elementwise."""
        scaled = raw_logits if self.scale == 1.0 else raw_logits * self.scale
        return scaled if self.cap is None else torch.tanh(scaled / self.cap) * self.cap

    def derivative(self, logits: torch.Tensor) -> torch.Tensor | float:
        """Derivative of the logits with respect to the raw output of the head, from the logits."""
        return self.scale if self.cap is None else self.scale * (1 - (logits / self.cap).square())


def check_quantized_head(language_model: PreTrainedModel) -> None:
    """
    Refuse a head that bitsandbytes was told to quantize although its weight is the embedding's, which is not quantized:
    its layer would fail at the first token.

    Raises:
        UnsupportedLanguageModel: naming the language model and how to load it.
    """
    head: Any = language_model.get_output_embeddings()
    if type(head).__module__.startswith("bitsandbytes") and type(getattr(head, "weight", None)) is nn.Parameter:
        name = next((name for name, module in language_model.named_modules() if module is head), "lm_head")
        raise UnsupportedLanguageModel(
            f"{describe(language_model)} has a head quantized by bitsandbytes ({type(head).__name__}) whose weight is "
            f"that of the embedding, which is not quantized; expected `llm_int8_skip_modules` of the "
            f"`BitsAndBytesConfig` to hold {name.rpartition('.')[2]!r}, or to be None."
        )


def find_logit_transform(language_model: PreTrainedModel) -> LogitTransform:
    """
    What a language model does to its states and logits around its head.

    Args:
        language_model (`PreTrainedModel`): Its weights are not read, and may be anywhere.

    Raises:
        UnsupportedLanguageModel: it does something else than to scale or to soft-cap.
    """
    name = describe(language_model)
    decoder, head = decoder_of(language_model), language_model.get_output_embeddings()
    rows, width = head_rows(language_model), state_width(language_model)
    # Powers of two, which no dtype rounds.
    states = torch.tensor([1.0, -2.0, 0.5, -0.25, 4.0], dtype=torch.float64).repeat(2 * width)[: 2 * width]
    states = states.reshape(1, 2, width)
    magnitudes = torch.tensor([0, 2**-6, 0.125, 0.5, 1, 2, 8, 32, 128, 1024, 2**20], dtype=torch.float64)
    raw = torch.cat([magnitudes, -magnitudes]).repeat(rows // len(magnitudes) + 1)[:rows].expand(1, 2, rows)
    read: list[torch.Tensor] = []

    def stand_in_head(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        read.append(hidden_states)
        return raw.clone()

    try:
        with (
            torch.no_grad(),
            _replaced_forward(decoder, lambda *args, **kwargs: _DecoderOutput(last_hidden_state=states.clone())),
            _replaced_forward(head, stand_in_head),
        ):
            output = language_model(inputs_embeds=states.clone(), use_cache=False)
        logits = output.logits if hasattr(output, "logits") else output[0]
        logits = logits.detach().double().cpu()
    except Exception as error:
        what = "cannot be tried" if read else "puts layers that cannot be tried between its decoder and its head"
        raise UnsupportedLanguageModel(f"{name} {what}: {type(error).__name__}: {error}") from error
    if len(read) != 1 or read[0].shape != states.shape or logits.shape != raw.shape:
        raise UnsupportedLanguageModel(f"{name} does not give the output of its head for the states of its decoder.")
    state_scale = _common_factor(read[0].detach().double().cpu(), states)
    if state_scale is None:
        raise UnsupportedLanguageModel(
            f"{name} puts layers between the states of its decoder and its head; expected a factor at most."
        )
    transform = LogitTransform(state_scale, *_scale_and_cap(raw, logits))
    if not torch.allclose(transform(raw), logits, rtol=1e-4, atol=1e-6):
        raise UnsupportedLanguageModel(
            f"{name} computes its logits from the output of its head in an unknown way; expected a factor or "
            "`cap * tanh(x / cap)`."
        )
    return transform


def _scale_and_cap(raw: torch.Tensor, logits: torch.Tensor) -> tuple[float, float | None]:
    scale = _common_factor(logits, raw)
    if scale is not None:
        return scale, None
    cap = float(logits.amax())
    small = int((raw[0, 0] == 0.125).nonzero()[0])
    return _round(float(torch.atanh(logits[0, 0, small] / cap)) * cap / 0.125), cap


def _common_factor(values: torch.Tensor, of: torch.Tensor) -> float | None:
    factor = float((values * of).sum() / (of * of).sum())
    largest = float(of.abs().max())
    return _round(factor) if torch.allclose(values, factor * of, rtol=1e-2, atol=1e-9 * largest) else None


def _round(factor: float) -> float:
    """Without what summing has added to it."""
    return 1.0 if abs(factor - 1) < 1e-6 else float(f"{factor:.12g}")


@dataclass
class _DecoderOutput(BaseModelOutputWithPast):
    """Has every field that a language model may ask for, as `None`."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextlib.contextmanager
def _replaced_forward(module: Any, forward: Any) -> Iterator[None]:
    # accelerate sets the same attribute.
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.forward = before


def find_embedding_scale(table: nn.Module) -> float:
    """
    Factor that an embedding module puts on its rows.

    Args:
        table (`nn.Embedding`): Its weight is not read, and may be anywhere; its buffers are.

    Raises:
        UnsupportedLanguageModel: it does something else than to scale.
    """
    base: Any = table
    table = base.get_base_layer() if hasattr(base, "get_base_layer") else base  # of peft
    ones: Any = copy.copy(table)
    weight: Any = table.weight
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    ones._parameters = {"weight": nn.Parameter(torch.ones(2, weight.shape[-1], dtype=dtype), False)}
    ones._buffers = {name: _readable_buffer(table, name) for name in table._buffers}
    ones.__dict__.pop("forward", None)  # of accelerate's hook
    if getattr(table, "padding_idx", None) is not None:
        ones.padding_idx = None
    try:
        with torch.no_grad():
            embeds = ones(torch.tensor([[0, 1]])).double()
    except Exception as error:
        raise UnsupportedLanguageModel(
            f"The embedding {type(table).__name__} cannot be tried: {type(error).__name__}: {error}"
        ) from error
    scale = _common_factor(embeds, torch.ones_like(embeds))
    if scale is None:
        raise UnsupportedLanguageModel(
            f"The embedding {type(table).__name__} does something else than to look its rows up and scale them."
        )
    return scale


def _readable_buffer(table: Any, name: str) -> torch.Tensor | None:
    buffer = table._buffers[name]
    if buffer is not None and buffer.is_meta:
        from accelerate.utils import align_module_device

        with align_module_device(table, "cpu"):
            return table._buffers[name].clone()
    return None if buffer is None else buffer.cpu()


def decoder_of(language_model: PreTrainedModel) -> nn.Module:
    """The part of a language model from embeddings to last hidden states."""
    decoder = language_model.get_decoder()
    # What transformers answers where it does not find the decoder.
    decoder = getattr(language_model, "model", None) if decoder is language_model else decoder
    if not isinstance(decoder, PreTrainedModel):
        raise UnsupportedLanguageModel(f"{describe(language_model)} has no decoder that transformers knows.")
    return decoder


def describe(language_model: PreTrainedModel) -> str:
    """A language model, for messages."""
    return f"The language model {type(language_model).__name__} ({language_model.config.model_type})"


def head_rows(language_model: PreTrainedModel) -> int:
    """Columns of the logits."""
    head: Any = language_model.get_output_embeddings()
    return getattr(head, "out_features", None) or head.weight.shape[0]


def state_width(language_model: PreTrainedModel) -> int:
    """Width of the states that the head reads."""
    head: Any = language_model.get_output_embeddings()
    return getattr(head, "in_features", None) or head.weight.shape[-1]


__all__ = [
    "LogitTransform",
    "UnsupportedLanguageModel",
    "check_quantized_head",
    "decoder_of",
    "describe",
    "find_embedding_scale",
    "find_logit_transform",
]
