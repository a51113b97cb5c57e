"""The world's language model: an OPT that reads captions, stories and dialogues, and describes the current scene.

Two problems of a model this small are solved by its initialization and its losses:

* Which of two objects a sentence refers to (`the car goes to the left`) is learned late, because guessing is right half
  of the time. Sinusoidal position embeddings with the norm of token embeddings, keys that begin equal to queries, and a
  first phase of events between two objects make the model look for the name early.
* GILL reads images from single states at `[IMG]`, but a model that predicts the next word alone looks up one word
  after the other. So linear heads, discarded afterwards, predict all words of a description from the state at the
  colon before it (multi-token prediction, Gloeckle et al., 2024), what is at each place, and whether the retrieval set
  has an image of it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import BatchEncoding, OPTForCausalLM, PreTrainedTokenizerBase

from ..world.caption_grammar import layout, parse_caption
from ..world.documents import availability_word
from ..world.phrases import IMAGE_REQUEST, STOP
from ..world.scene import PLACES, Scene, SceneError
from . import batches

# The number of words of the longest description with its full stop and one more sentence.
_MAX_NEW_TOKENS = 24
WORDS_AHEAD = 22
# Number of words of a layout, and one for whether the scene is retrievable.
_LAYOUT = 1 + 2 * len(PLACES) + 1
# Standard deviation of token and position embeddings at the start, and of token embeddings at the end.
_INITIAL_STD, _FINAL_STD = 0.3, 0.1
# Ratio of the longest to the shortest wavelength of positions, which is six words.
_LONGEST_WAVE = 400.0
# With this gain logits start as small as usual, although the output embeddings are these large ones.
_FIRST_GAIN = 0.17
# Standard deviation of the weights of queries and keys at the start.
_QUERY_KEY_STD = 0.06


@torch.no_grad()
def initialize_weights(model: OPTForCausalLM) -> None:
    """Initialize embeddings with a large norm, positions with sinusoids, and keys equal to queries.

    Every token then attends to its neighbours and to earlier occurrences of itself.
    """
    decoder = model.model.decoder
    nn.init.normal_(decoder.embed_tokens.weight, std=_INITIAL_STD)
    nn.init.constant_(decoder.final_layer_norm.weight, _FIRST_GAIN)
    positions, width = decoder.embed_positions.weight.shape
    frequencies = _LONGEST_WAVE ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(positions)[:, None] * frequencies
    decoder.embed_positions.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * _INITIAL_STD * 2**0.5)
    for layer in decoder.layers:
        nn.init.normal_(layer.self_attn.q_proj.weight, std=_QUERY_KEY_STD)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


@torch.no_grad()
def reduce_embedding_scale(model: OPTForCausalLM) -> None:
    """Scale embeddings from the large norm of [`initialize_weights`] to a usual one; the logits stay the same.

    Everything that is added to the residual stream is scaled, which the layer norms undo, and the last norm's gain
    makes up for the smaller output embeddings. GILL keeps the norm of its `[IMG]` rows at that of the other rows, and
    large rows take longer to train.
    """
    decoder = model.model.decoder
    scale = _FINAL_STD / float(decoder.embed_tokens.weight.std())
    added = [decoder.embed_tokens.weight, decoder.embed_positions.weight]
    for layer in decoder.layers:
        for linear in (layer.self_attn.out_proj, layer.fc2):
            added += [linear.weight, linear.bias]
    for weight in added:
        weight *= scale
    decoder.final_layer_norm.weight /= scale
    decoder.final_layer_norm.bias /= scale


def described_scenes(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[tuple[str, Scene | None]]:
    """What the model writes after each text and `picture :`, up to the full stop, and the scene that this describes."""
    for tokens in _image_requests(model, tokenizer, texts):
        with torch.no_grad():
            written = model.generate(
                **tokens,
                do_sample=False,
                max_new_tokens=_MAX_NEW_TOKENS,
                eos_token_id=[tokenizer.convert_tokens_to_ids(STOP), tokenizer.eos_token_id],
                pad_token_id=tokenizer.pad_token_id,
            )
        for row in written[:, tokens.input_ids.shape[1] :]:
            yield description_in(tokenizer.decode(row, skip_special_tokens=True))


def _image_requests(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Iterator[BatchEncoding]:
    for batch in batches(texts, 100):
        prompts = [f"{text} {IMAGE_REQUEST}" for text in batch]
        yield tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(model.device)


def description_in(text: str) -> tuple[str, Scene | None]:
    """The part of a text before its first full stop, and the scene that it fully describes."""
    description = text.partition(STOP)[0].strip()
    return description, parse_full_caption(description)


def parse_full_caption(text: str) -> Scene | None:
    """The scene that a caption fully describes; `None` if it leaves anything out or is no caption."""
    known = parse_caption(text)
    try:
        return None if known is None else known.scene()
    except SceneError:
        return None


def descriptions_of(ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Mask `(num_texts, length)` of the words after `picture :` up to the full stop, which is included."""
    colon, stop = (tokenizer.convert_tokens_to_ids(word) for word in (":", STOP))
    before = torch.nn.functional.pad(ids, (1, 0))[:, :-1]
    # A colon begins a description, a full stop ends it.
    begun = (before == colon).long().cumsum(1)
    places = torch.arange(ids.shape[1]).expand_as(ids)
    last_colon = torch.where(before == colon, places, -1).cummax(1).values
    last_stop = torch.where(before == stop, places, -1).cummax(1).values
    return (begun > 0) & (last_colon > last_stop)


def words_ahead(ids: torch.Tensor, places: torch.Tensor, number: int, padding: int) -> torch.Tensor:
    """The words that follow each chosen position, `(num_positions, number)`; padding after the end of the text.

    Args:
        ids: `(num_texts, length)`.
        places: bool `(num_texts, length)`, the chosen positions.
    """
    following = nn.functional.pad(ids, (0, number), value=padding).unfold(1, number, 1)[:, 1:]
    return following[places]


def layouts_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, availability: bool) -> torch.Tensor:
    """The layout of the scene after each colon and whether it is retrievable, `(num_colons, num_words)`.

    Padding where the scene is not described completely, and for the last word without `availability`.
    """
    found, padding = [], tokenizer.pad_token
    for text in texts:
        words = text.split()
        for place in (at for at, word in enumerate(words) if word == ":"):
            ends = (at for at in range(place + 1, len(words)) if words[at] in (":", STOP))
            scene = parse_full_caption(" ".join(words[place + 1 : next(ends, len(words))]))
            found.append(
                f"{layout(scene)} {availability_word(scene) if availability else padding}"
                if scene
                else f"{padding} " * _LAYOUT
            )
    return tokenizer(found, return_tensors="pt").input_ids


class LanguageModelLosses(nn.Module):
    """The model with its losses: weighted cross-entropy of the next word, and, at a colon, cross-entropy of the whole
    description that follows and of its layout."""

    def __init__(self, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.ahead = nn.Linear(model.config.hidden_size, WORDS_AHEAD * model.config.vocab_size)
        self.layout = nn.Linear(model.config.hidden_size, _LAYOUT * model.config.vocab_size)
        self._colon, self._padding = tokenizer.convert_tokens_to_ids(":"), tokenizer.pad_token_id

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, layouts: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss; `ids`, `mask` and `weights` are `(num_texts, length)`, `layouts` are of [`layouts_of`]."""
        states = self.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = self.model.lm_head(states)[:, :-1].float()
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        colons = ids == self._colon
        loss = loss + self._cross_entropy(
            self.ahead(states[colons]), words_ahead(ids, colons, WORDS_AHEAD, self._padding)
        )
        return loss if layouts is None else loss + self._cross_entropy(self.layout(states[colons]), layouts)

    @torch.no_grad()
    def scenes_at_once(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Scene | None]:
        """The scenes that the states at the colon after `picture` hold, all words read at once; `None` for none."""
        scenes = []
        for tokens in _image_requests(self.model, tokenizer, texts):
            states = self.model.model(**tokens).last_hidden_state[:, -1]
            words = self.ahead(states).unflatten(-1, (WORDS_AHEAD, -1)).argmax(-1)
            scenes += [description_in(tokenizer.decode(ids))[1] for ids in words.tolist()]
        return scenes

    def _cross_entropy(self, logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        each = logits.float().reshape(words.numel(), -1)
        return nn.functional.cross_entropy(each, words.flatten(), ignore_index=self._padding)
