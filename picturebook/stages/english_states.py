"""Frozen states of a language model at the `[IMG]` tokens after many prompts, computed once.

The `[IMG]` rows are those of a question's tokens and are not trained, so nothing that is trained comes before a state.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modeling_gill.atomic_write_gill import replace_file
from modeling_gill.decoder_traits_gill import cache_of, run_decoder
from modeling_gill.language_model_head_gill import decoder_of

# What the language model is asked at the `[IMG]` tokens, one token each.
QUESTIONS = (
    " The object is a kind of: Its color is: Position (left, right, top, bottom): "
    "Where and when (day, night, sea, snow):"
)
_BATCH, _SHARD = 64, 512


@dataclass(frozen=True)
class AskedModel:
    """A frozen language model that adapters are trained for, and how it is asked.

    Attributes:
        language_model: In the dtype to compute states in.
        tokenizer: Its tokenizer.
        as_prompt: Puts a request into the form that the language model reads.
        weights: What its weights are, in words.
        img_rows: `torch.FloatTensor` of shape `(num_image_output_tokens, hidden_size)`, the `[IMG]` rows of adapters
            that it has already; by default those of [`QUESTIONS`].
        learns_to_ask: Whether its row of `[IMG0]` takes a step, by which it asks for images by itself.
        hub_id: Its repository on the Hub.
    """

    language_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    as_prompt: Callable[[str], str]
    weights: str
    img_rows: torch.Tensor | None = None
    learns_to_ask: bool = False
    hub_id: str | None = None


@dataclass(frozen=True)
class StateReader:
    """Reads states at the `[IMG]` tokens.

    Attributes:
        language_model: Frozen.
        tokenizer: Its tokenizer.
        rows: `torch.FloatTensor` of shape `(num_image_output_tokens, hidden_size)`, the `[IMG]` rows.
    """

    language_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rows: torch.Tensor

    @torch.no_grad()
    def read(self, prompts: Sequence[str], keep: int | None = None) -> torch.Tensor:
        """
        States after each prompt.

        Args:
            keep (`int`, *optional*): Number of last states; by default those at the `[IMG]` tokens. One more includes
                the state that decides whether `[IMG0]` is written.

        Returns:
            `torch.FloatTensor` of shape `(num_prompts, keep, hidden_size)`, on the CPU.
        """
        keep = keep or len(self.rows)
        ids = [self.tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
        table = self.language_model.get_input_embeddings()
        decoder = decoder_of(self.language_model)
        found = torch.zeros(len(ids), keep, self.rows.shape[1])
        # Prompts that begin alike and are of about the same length together.
        order = sorted(range(len(ids)), key=lambda number: (ids[number][:3], len(ids[number])))
        for begin in range(0, len(order), _BATCH):
            numbers = order[begin : begin + _BATCH]
            batch = [ids[number] for number in numbers]
            shared = _shared_prefix(batch)
            cache: Any = None
            before = torch.ones(len(batch), shared, dtype=torch.long)
            if shared:
                prefix = run_decoder(
                    decoder, table(torch.tensor([batch[0][:shared]])), None, None, None, use_cache=True
                )
                cache = copy.deepcopy(cache_of(prefix))
                cache.batch_repeat_interleave(len(batch))
            longest = max(map(len, batch)) - shared
            padded = torch.tensor([[0] * (longest + shared - len(row)) + row[shared:] for row in batch])
            mask = torch.tensor([[0] * (longest + shared - len(row)) + [1] * (len(row) - shared) for row in batch])
            embeds = torch.cat([table(padded), self.rows.to(table.weight.dtype).expand(len(batch), -1, -1)], dim=1)
            mask = torch.cat([before, mask, mask.new_ones(len(batch), len(self.rows))], dim=1)
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
            out = run_decoder(decoder, embeds, mask, positions, cache, use_cache=cache is not None)
            found[numbers] = out.last_hidden_state[:, -keep:].float()
        return found


def cached_states(reader: StateReader, prompts: Sequence[str], folder: Path, name: str) -> np.ndarray:
    """States at the `[IMG]` tokens after each prompt, float16 `(num_prompts, num_image_output_tokens, hidden_size)`.

    They are written to `folder` part by part: a run that was stopped goes on with the next part.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for begin in range(0, len(prompts), _SHARD):
        path = folder / f"{name}-{begin:06d}.npy"
        if not path.exists():
            states = reader.read(prompts[begin : begin + _SHARD]).to(torch.float16).numpy()
            with replace_file(path) as new, open(new, "wb") as file:
                np.save(file, states)
            print(f"{name}: states of {min(begin + _SHARD, len(prompts)):,} of {len(prompts):,} prompts", flush=True)
        parts.append(np.load(path, mmap_mode="r"))
    return np.concatenate(parts)


def rows_of(language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str = QUESTIONS) -> torch.Tensor:
    """The input rows of a text's tokens, `torch.FloatTensor` of shape `(num_tokens, hidden_size)`."""
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[0]
    return language_model.get_input_embeddings().weight[ids].detach().float()


def as_chat(text: str, tokenizer: PreTrainedTokenizerBase, before: Sequence[str] = ()) -> str:
    """A user's message in the language model's own chat template, where its answer begins.

    Args:
        before: What the user and the language model said before, in turn.
    """
    said = [*before, text]
    messages = [{"role": ("user", "assistant")[at % 2], "content": each} for at, each in enumerate(said)]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _shared_prefix(batch: Sequence[Sequence[int]]) -> int:
    """Number of first tokens that all prompts have in common, but at most all but one of the shortest."""
    shortest = min(map(len, batch)) - 1
    first = batch[0]
    return next((at for at in range(shortest) if any(row[at] != first[at] for row in batch)), shortest)
