"""How the decoder of a language model reads padding and continues from a cache, tried when the model is joined.

It is tried on a copy with random weights and few, narrow layers, once for each configuration in a process.
"""

import copy
import functools
import inspect
import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from .language_model_head_gill import UnsupportedLanguageModel, decoder_of, describe

# Names of the cache in arguments and outputs of decoders, by version of transformers and family.
CACHE_NAMES = ("past_key_values", "cache", "cache_params")
# Parameters of a copy, beyond which it is made narrower, and beyond which it is not tried.
MAX_COPY_PARAMETERS = 2_000_000
LARGEST_COPY = 100_000_000
# What the widths of a copy are divided by where its layers and heads are many enough, see `small_config`.
_DIVISORS = (1, 32, 16, 8)
NARROWEST = 2 + len(_DIVISORS)
# A stream that is narrower hides what a decoder does wrong.
LEAST_WIDTH = 16
# A difference that rounding to float32 does not explain, relative to the largest state.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class DecoderTraits:
    """
    What the decoder of a language model computes exactly; all else takes a slower way, or is refused.

    Attributes:
        masks_padding (`bool`): A row that is padded on the left gives the states that it gives alone.
        continues (`bool`): One more token over a cache gives the state of a pass over the whole row.
        continues_by_several (`bool`): The same for several tokens at once.
        trains_over_cache (`bool`): Gradients reach tokens that are read over a cache.
    """

    masks_padding: bool = True
    continues: bool = True
    continues_by_several: bool = True
    trains_over_cache: bool = True


def run_decoder(
    decoder: nn.Module,
    inputs_embeds: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any | None = None,
    **kwargs: Any,
) -> Any:
    """Run a decoder with positions that padding does not shift; the arguments as in `run_language_model`."""
    if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
        # Left padding must not shift the positions, whichever way the model counts them by itself.
        position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
    accepted = _accepted_arguments(type(decoder))
    if position_ids is not None and "position_ids" in accepted:
        kwargs["position_ids"] = position_ids
    name = next((name for name in reversed(CACHE_NAMES) if name in accepted), None)
    if name is not None:
        kwargs[name] = past_key_values
    if name == "cache_params" and attention_mask is not None:
        # Recurrent models read the mask of the tokens they are given.
        attention_mask = attention_mask[:, -inputs_embeds.shape[1] :]
    return decoder(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)


def _accepted_arguments(decoder_class: Any) -> tuple[str, ...]:
    # torch.compile warns of functools.cache.
    if decoder_class not in _ACCEPTED_ARGUMENTS:
        _ACCEPTED_ARGUMENTS[decoder_class] = tuple(inspect.signature(decoder_class.forward).parameters)
    return _ACCEPTED_ARGUMENTS[decoder_class]


_ACCEPTED_ARGUMENTS: dict[Any, tuple[str, ...]] = {}


def cache_of(outputs: Any) -> Any | None:
    """The cache in the output of a decoder, whatever its family calls it."""
    return next((outputs[name] for name in CACHE_NAMES if outputs.get(name) is not None), None)


def find_decoder_traits(language_model: PreTrainedModel) -> DecoderTraits:
    """
    How a decoder reads padding and continues from a cache, tried on a small copy with random weights.

    Raises:
        UnsupportedLanguageModel: a decoder that does not read embeddings as it reads their tokens, or in which later
            tokens change the states of earlier ones.
    """
    decoder: Any = decoder_of(language_model)
    decoder_class: Any = type(decoder)
    attention = decoder.config._attn_implementation
    attention = attention if attention in ("eager", "sdpa") else "sdpa"
    found = _traits_of_copies(
        decoder_class, _Fields(decoder.config, attention), getattr(decoder, "_supports_sdpa", False)
    )
    if isinstance(found, str):
        raise UnsupportedLanguageModel(f"{describe(language_model)} {found}")
    return found


class _Fields:
    """A configuration, equal to others with the same fields."""

    def __init__(self, config: PretrainedConfig, attention: str) -> None:
        self.config, self.attention = config, attention
        fields = {k: v for k, v in config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
        self.key = (type(config), attention, json.dumps(fields, sort_keys=True, default=str))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Fields) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=64)
def _traits_of_copies(decoder_class: Any, fields: _Fields, supports_sdpa: bool) -> DecoderTraits | str:
    """The traits, or why the decoder is refused."""
    attention = fields.attention if supports_sdpa else "eager"
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        try:
            decoder = _small_copy(decoder_class, fields.config, attention)
        except Exception as error:
            return f"could not be tried on a small copy ({error})."
        return _try_decoder(decoder)


def _small_copy(decoder_class: Any, config: PretrainedConfig, attention: str) -> Any:
    """The plainest copy that is small and can be run, or the smallest of the others."""
    failures: list[str] = []
    larger: list[tuple[int, PretrainedConfig]] = []
    for narrowness in range(NARROWEST + 1):
        try:
            small = small_config(config, narrowness)
            small._attn_implementation = attention
            with torch.device("meta"):
                size = sum(weight.numel() for weight in decoder_class(copy.deepcopy(small)).parameters())
            if size > MAX_COPY_PARAMETERS:
                larger.append((size, small))
                continue
            return _random_copy(decoder_class, small)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
    for size, small in sorted(larger, key=lambda candidate: candidate[0]):
        if size > LARGEST_COPY:
            failures.append(f"a copy of few layers has {size:,} parameters")
            break
        try:
            return _random_copy(decoder_class, small)
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}")
    raise RuntimeError(failures[-1])


def _random_copy(decoder_class: Any, config: PretrainedConfig) -> Any:
    """A decoder with random weights that was run once."""
    decoder = decoder_class(config).float().eval().requires_grad_(False)
    for weight in decoder.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
        else:  # a gate that begins at zero would hide what is beside it
            weight.add_(torch.randn_like(weight) * 0.2)
    nn.init.normal_(decoder.get_input_embeddings().weight)
    run_decoder(decoder, decoder.get_input_embeddings()(torch.tensor([[1, 2]])), use_cache=False)
    return decoder


def small_config(config: PretrainedConfig, narrowness: int) -> PretrainedConfig:
    """
    A copy of a decoder's configuration with few layers of each kind, few tokens, few experts and short windows.

    Args:
        narrowness (`int`): 1 for fewer heads of the same size and a narrower feed-forward; 2 for a narrow residual
            stream too, where that does not depend on the heads. 3 to 6 for two layers of each kind, as many heads, and
            all widths divided by one number, for families whose widths are in fixed proportions.

    Raises:
        ValueError: the copy would be so narrow that it shows nothing.
    """
    small = copy.deepcopy(config)
    _set_at_most(small, 64, "vocab_size", "vocab_size_per_layer_input")
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if getattr(small, name, None) is not None:
            setattr(small, name, 0)
    _set_at_most(small, 4, "sliding_window", "attention_chunk_size", "window_size", "attention_window_size")
    _set_at_most(small, 8, "chunk_size", "mamba_chunk_size")
    _set_at_most(small, 4, "num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
    _set_at_most(small, 2, "num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts")
    _set_at_most(small, 1, "n_group", "topk_group", "first_k_dense_replace")
    _keep_layers_of_each_kind(small, 1 if narrowness < 3 else 2)
    if narrowness > 2:
        _divide_widths(small, _DIVISORS[narrowness - 3])
    elif narrowness:
        _narrow(small)
    if narrowness == 2:
        _set_at_most(small, 64, "hidden_size")
    return small


def _divide_widths(config: Any, divisor: int) -> None:
    width = getattr(config, "hidden_size", None)
    if divisor > 1 and isinstance(width, int) and width // divisor < LEAST_WIDTH:
        raise ValueError(f"a copy of width {width // divisor} is too narrow")
    for name, value in vars(config).copy().items():
        if type(value) is int and value >= divisor > 1 and name != "n_head" and not any(p in name for p in _NO_WIDTHS):
            setattr(config, name, value // divisor)


# Parts of the names of counts, ids and lengths.
_NO_WIDTHS = (
    *("vocab", "position", "layer", "heads", "expert", "group", "token", "_id", "num_", "_per_"),
    *("window", "chunk", "kernel", "ctx", "length", "version", "period", "offset", "expand", "conv"),
)


def _keep_layers_of_each_kind(config: Any, each: int) -> None:
    count = getattr(config, "num_hidden_layers", None)
    if not isinstance(count, int):
        return
    fields = {k: v for k, v in vars(config).items() if isinstance(v, list)}
    by_layer = {k: v for k, v in fields.items() if len(v) == count and count > 2}
    periods = [k for k, v in vars(config).items() if isinstance(v, int) and k.endswith(("_period", "_offset"))]
    first: dict[tuple[str, ...], list[int]] = {}
    for number in range(count):
        first.setdefault(tuple(str(v[number]) for v in by_layer.values()), []).append(number)
    # Kinds that repeat, shorter lists than the layers are.
    repeated = max([len(v) for v in fields.values() if 1 < len(v) < count and isinstance(v[0], str)], default=0)
    of_each_kind = [number for numbers in list(first.values())[:6] for number in numbers[:each]]
    kept = sorted({*of_each_kind, *range(max(repeated, min(2, count)))})
    if periods and count > 4 and not (by_layer and each > 1):
        # Layers whose kind follows from their number: one of each kind within the first four.
        kept = list(range(4))
        for name in periods:
            setattr(config, name, 2 if name.endswith("_period") else 1)
    for name, value in fields.items():
        if name in by_layer:
            setattr(config, name, [value[number] for number in kept])
        elif value and all(type(i) is int and 0 <= i < count for i in value) and ("layer" in name or "idx" in name):
            setattr(config, name, [kept.index(i) for i in value if i in kept] or [len(kept) - 1])
    config.num_hidden_layers = len(kept)


def _narrow(config: Any) -> None:
    heads, width = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    groups = getattr(config, "num_key_value_heads", None) or heads
    if isinstance(heads, int) and isinstance(groups, int) and isinstance(width, int):
        fewer = heads // groups if heads > groups else 2 if heads % 2 == 0 else 1
        if heads % fewer == 0 and width % (heads // fewer) == 0:
            config.num_attention_heads = fewer
            if getattr(config, "num_key_value_heads", None):
                config.num_key_value_heads = 1 if heads > groups else fewer
            config.hidden_size = width // (heads // fewer)
            # Sizes that some families require to be in proportion.
            for name in _IN_PROPORTION:
                value = getattr(config, name, None)
                if type(value) is int and value % (heads // fewer) == 0:
                    setattr(config, name, value // (heads // fewer))
    keys, values = (getattr(config, f"linear_num_{part}_heads", None) for part in ("key", "value"))
    if isinstance(keys, int) and isinstance(values, int):
        config.linear_num_key_heads, config.linear_num_value_heads = 1, max(1, values // keys)
    _set_at_most(config, 2, "linear_num_heads")
    for name, value in vars(config).copy().items():
        if type(value) is int and ("intermediate_size" in name or name in ("ffn_dim", "n_inner", "d_ff")):
            setattr(config, name, min(value, 128))
    _set_at_most(config, 1, "n_groups", "mamba_n_groups", "mamba_ngroups")


# Of recurrent layers.
_IN_PROPORTION = (
    *("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads", "mamba_d_ssm"),
    *("lru_width", "attention_hidden_size", "time_step_rank", "mamba_dt_rank"),
)


def _set_at_most(config: Any, most: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name, None)
        if type(value) is int and value > most:
            setattr(config, name, most)


@torch.no_grad()
def _try_decoder(decoder: Any) -> DecoderTraits | str:
    ids = torch.randint(1, decoder.get_input_embeddings().weight.shape[0], (2, 9))
    embeds = decoder.get_input_embeddings()(ids)
    whole = run_decoder(decoder, embeds, use_cache=False).last_hidden_state
    scale = float(whole.abs().max())

    def same(states: torch.Tensor, expected: torch.Tensor) -> bool:
        return states.shape == expected.shape and float((states - expected).abs().max()) <= TOLERANCE * scale

    if not same(decoder(input_ids=ids, use_cache=False).last_hidden_state, whole):
        return "reads the ids of tokens beside their embeddings, which images and `[IMG]` tokens do not have."
    if not same(run_decoder(decoder, embeds[:, :5], use_cache=False).last_hidden_state, whole[:, :5]):
        return "is not causal: later tokens change the states of earlier ones."
    tried = _Trials(decoder, embeds, whole, same)
    masks_padding = tried.succeeds(tried.padded_row)
    continues = tried.succeeds(tried.one_by_one, padded=masks_padding)
    several = continues and tried.succeeds(tried.several, padded=masks_padding)
    trains = several and masks_padding and tried.succeeds(tried.gradient)
    return DecoderTraits(masks_padding, continues, several, trains)


class _Trials:
    """Ways to read the same two rows, compared with one pass over each."""

    def __init__(self, decoder: Any, embeds: torch.Tensor, whole: torch.Tensor, same: Any) -> None:
        self.decoder, self.embeds, self.whole, self.same = decoder, embeds, whole, same
        # The first row lacks its first three tokens and is padded on the left instead.
        self.mask = torch.ones(2, 9, dtype=torch.long)
        self.mask[0, :3] = 0
        self.padded = embeds.clone()
        self.padded[0, 3:] = embeds[0, :6]
        self.padded[0, :3] = embeds[1, :1]
        self.expected = whole.clone()
        self.expected[0, 3:] = whole[0, :6]

    def succeeds(self, trial: Any, **kwargs: Any) -> bool:
        try:
            return bool(trial(**kwargs))
        except Exception:
            return False

    def padded_row(self) -> bool:
        states = run_decoder(self.decoder, self.padded, self.mask, use_cache=False).last_hidden_state
        return self._agrees(states, 0, True)

    def one_by_one(self, padded: bool) -> bool:
        embeds, mask = self._rows(padded)
        outputs = run_decoder(self.decoder, embeds[:, :5], mask[:, :5], use_cache=True)
        states = [outputs.last_hidden_state]
        for end in range(6, 10):
            cache = cache_of(outputs)
            # Caches of recurrent layers alone do not count their tokens, which generation needs.
            if cache is None or cache.get_seq_length() != end - 1:
                return False
            outputs = run_decoder(
                self.decoder, embeds[:, end - 1 : end], mask[:, :end], past_key_values=cache, use_cache=True
            )
            states.append(outputs.last_hidden_state)
        return self._agrees(torch.cat(states, dim=1), 0, padded)

    def several(self, padded: bool) -> bool:
        embeds, mask = self._rows(padded)
        cache = cache_of(run_decoder(self.decoder, embeds[:, :5], mask[:, :5], use_cache=True))
        outputs = run_decoder(self.decoder, embeds[:, 5:], mask, past_key_values=cache, use_cache=True)
        return self._agrees(outputs.last_hidden_state, 5, padded)

    @torch.enable_grad()
    def gradient(self) -> bool:
        with torch.no_grad():
            cache = cache_of(run_decoder(self.decoder, self.padded[:, :5], self.mask[:, :5], use_cache=True))
        mask = self.mask.clone()
        mask[1, 8] = 0  # padding on the right of what is read over the cache
        later = self.padded[:, 5:].clone().requires_grad_()
        states = run_decoder(self.decoder, later, mask, past_key_values=cache, use_cache=True).last_hidden_state
        whole = self.embeds.clone().requires_grad_()
        expected = run_decoder(self.decoder, whole, use_cache=False).last_hidden_state
        weights = torch.arange(1.0, states.shape[-1] + 1).cos()
        (states[0] @ weights).sum().backward()
        (expected[0, 2:6] @ weights).sum().backward()
        assert later.grad is not None and whole.grad is not None
        unit = float(whole.grad.abs().max())
        return (
            self.same(states[0].detach(), self.whole[0, 2:6])
            and self.same(states[1, :3].detach(), self.whole[1, 5:8])
            and float((later.grad[0] - whole.grad[0, 2:6]).abs().max()) <= TOLERANCE * unit
        )

    def _rows(self, padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
        return (self.padded, self.mask) if padded else (self.embeds, torch.ones_like(self.mask))

    def _agrees(self, states: torch.Tensor, begin: int, padded: bool) -> bool:
        expected = self.expected if padded else self.whole
        start = max(begin, 3) if padded else begin
        return self.same(states[0, start - begin :], expected[0, start:]) and self.same(states[1], expected[1, begin:])


__all__ = ["CACHE_NAMES", "DecoderTraits", "cache_of", "find_decoder_traits", "run_decoder"]
