"""The world's language model: an OPT that reads captions, stories and dialogues, and describes what is so now.

The hard thing to learn is which of two things a sentence means (`the car goes to the left`): half right by guessing, a
model stays so for long. What brings it about: positions that begin as waves, as loud as words, attention that begins by
looking for what is alike, and many events among two things at first.

What GILL then needs is a state that holds the whole picture, as it reads pictures off states at `[IMG]`. A model that
learns the next word alone finds one word after the other; so this one learns to say, from its state at the colon that
asks for a description, all of its words at once (several words ahead, as of Gloeckle et al., 2024, and as there by a
linear layer that is thrown away).
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerBase

from .captions import layout, parse_caption
from .documents import EVENTS_FIRST, SHARES, document
from .drawing import draw
from .phrases import PICTURE_REQUEST, STOP
from .scene import Scene, SceneError
from .splits import TRAIN, VALIDATION, dialogues, stories, stream
from .stage import Place
from .stories import Story
from .training_loop import Schedule, remove_checkpoints, run_training
from .word_tokenizer import NEWLINE, language_model_tokenizer

STAGE = "language_model"
# Texts whose numbers of words differ by less are of about one length.
_ABOUT = 16
_POSITIONS, _BATCHES_SORTED, _LONGEST_ANSWER, _DESCRIPTION_WEIGHT = 320, 16, 24, 5.0
# As many words as the longest description with its full stop and a remark.
_WORDS_AHEAD = 22
# How loud words and positions are at first, and how loud words are in the end.
_LOUDNESS, _USUAL_LOUDNESS = 0.3, 0.1
# How many times as long the longest of a position's waves is as the shortest, which repeats after six words.
_LONGEST_WAVE = 400.0
# With embeddings so loud, also those that score the next word, scores begin as small as is usual by this gain.
_FIRST_GAIN = 0.17
# Of the weights of queries and keys at first.
_ALIKE = 0.06


def train_language_model(
    place: Place, schedule: Schedule, width: int, layers: int, event_steps: int, measured: int, seed: int = 0
) -> None:
    """Train on [`documents`], measure how well it describes the present state, and save it with its tokenizer.

    Words of descriptions weigh more than others: they follow from what was told, where most other words of a story
    could as well be others.

    Args:
        event_steps (`int`): For so many steps all documents are events among two things.
    """
    tokenizer = language_model_tokenizer()
    torch.manual_seed(seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer), hidden_size=width, word_embed_proj_dim=width, num_hidden_layers=layers,
            ffn_dim=4 * width, num_attention_heads=max(width // 32, 1), max_position_embeddings=_POSITIONS, dropout=0.0,
            init_std=0.03, bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    begin(model)
    wrapped = _Words(model, tokenizer)
    batches = _Batches(tokenizer, schedule.batch_size, event_steps, seed)

    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        ids, mask = batches[step]
        weights = mask.float() * (1 + (_DESCRIPTION_WEIGHT - 1) * descriptions_of(ids, tokenizer).float())
        return wrapped(ids.to(model.device), mask.to(model.device), weights.to(model.device))

    seconds = run_training(STAGE, wrapped, schedule, loss_of_step, place.checkpoints(STAGE), seed)
    at_once = measure_at_once(wrapped, tokenizer, measured, seed)
    quieten(model)

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    place.write_folder(STAGE, write)
    _write_sheet(place, model, tokenizer, seed)
    place.write_figures(
        STAGE,
        {"parameters": sum(one.numel() for one in model.parameters()), "minutes": seconds / 60}
        | measure_language_model(model, tokenizer, measured, seed)
        | at_once,
    )
    remove_checkpoints(place.checkpoints(STAGE))


@torch.no_grad()
def begin(model: OPTForCausalLM) -> None:
    """Weights to begin with: loud words, positions as waves, from which nearness is easily told, and keys like queries,
    so that every word attends to where it stood before, and to its neighbours."""
    decoder = model.model.decoder
    nn.init.normal_(decoder.embed_tokens.weight, std=_LOUDNESS)
    nn.init.constant_(decoder.final_layer_norm.weight, _FIRST_GAIN)
    positions, width = decoder.embed_positions.weight.shape
    frequencies = _LONGEST_WAVE ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(positions)[:, None] * frequencies
    decoder.embed_positions.weight.copy_(torch.cat([angles.sin(), angles.cos()], dim=1) * _LOUDNESS * 2**0.5)
    for layer in decoder.layers:
        nn.init.normal_(layer.self_attn.q_proj.weight, std=_ALIKE)
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


@torch.no_grad()
def quieten(model: OPTForCausalLM) -> None:
    """Scale words as loud as [`begin`] makes them down to what is usual; the model says the same as before.

    All that is added up along the layers is scaled, which their norms take out again, and scores are by the last norm's
    gain. GILL's own rows among the words are kept as loud as the others, and the louder, the longer they take to learn.
    """
    decoder = model.model.decoder
    scale = _USUAL_LOUDNESS / float(decoder.embed_tokens.weight.std())
    added = [decoder.embed_tokens.weight, decoder.embed_positions.weight]
    for layer in decoder.layers:
        for linear in (layer.self_attn.out_proj, layer.fc2):
            added += [linear.weight, linear.bias]
    for weight in added:
        weight *= scale
    decoder.final_layer_norm.weight /= scale
    decoder.final_layer_norm.bias /= scale


def _write_sheet(place: Place, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """The last scenes of stories, and beside each what the model says it is; black where it says no scene."""
    told = [story for story in stories(VALIDATION, 40, seed) if story.complete]
    found = [scene for _, scene in described_scenes(model, tokenizer, [story.text for story in told])]
    truth = [draw(story.scenes[-1]) for story in told]
    said = [np.zeros_like(truth[0]) if scene is None else draw(scene) for scene in found]
    place.write_pairs_sheet(STAGE, truth, said)


class _Batches:
    """Batches of documents by number; texts of about one length together, so that little is padding.

    Of about one length only: events of one kind are of one length, and a batch of one kind teaches little.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int, event_steps: int, seed: int) -> None:
        self._tokenizer, self._size, self._event_steps, self._seed = tokenizer, size, event_steps, seed
        self._group, self._ready = -1, []  # type: int, list[list[str]]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        group, at = divmod(number, _BATCHES_SORTED)
        if group != self._group:
            generator = stream(self._seed, TRAIN, f"documents {group}")
            shares = EVENTS_FIRST if group * _BATCHES_SORTED < self._event_steps else SHARES
            texts = [document(TRAIN, generator, shares) + NEWLINE for _ in range(self._size * _BATCHES_SORTED)]
            texts.sort(key=lambda text: text.count(" ") // _ABOUT)
            cut = [texts[begin : begin + self._size] for begin in range(0, len(texts), self._size)]
            self._group, self._ready = group, [cut[place] for place in generator.permutation(len(cut))]
        tokens = self._tokenizer(self._ready[at], padding=True, padding_side="right", return_tensors="pt")
        return tokens.input_ids, tokens.attention_mask


def measure_language_model(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> dict[str, float]:
    """How often the description after `picture :` is of the scene that is so, all of it.

    After one to five sentences of stories whose sentences tell all; after five with what the first four pictures show
    standing behind them, in stories that leave things out; and after dialogues.
    """
    told = stories(VALIDATION, number, seed, 0.0)
    figures = {}
    for sentences in (1, 3, 5):
        prompts = [" ".join(f"{one} ." for one in story.sentences[:sentences]) for story in told]
        truth = [story.scenes[sentences - 1] for story in told]
        figures[f"right_after_{sentences}"] = _right(model, tokenizer, prompts, truth)
    left_out = stories(VALIDATION, number, seed)
    prompts = [with_stand_ins(story) for story in left_out]
    figures["right_after_5_with_stand_ins"] = _right(
        model, tokenizer, prompts, [story.scenes[-1] for story in left_out]
    )
    asked = [one for one in dialogues(VALIDATION, number, seed) if one.known[-1].complete]
    prompts = [one.text().removesuffix(PICTURE_REQUEST).rstrip() for one in asked]
    figures["right_after_dialogue"] = _right(model, tokenizer, prompts, [one.scene for one in asked])
    return figures


def with_stand_ins(story: Story) -> str:
    """All sentences, and behind each but the last what its picture shows."""
    parts = []
    for sentence, scene in zip(story.sentences[:-1], story.scenes, strict=False):
        parts += [f"{sentence} .", f"( {layout(scene)} )"]
    return " ".join([*parts, f"{story.sentences[-1]} ."])


def described_scenes(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], batch_size: int = 100
) -> Iterator[tuple[str, Scene | None]]:
    """What the model says after each prompt and `picture :`, up to the full stop, and the scene that this means."""
    for begin in range(0, len(prompts), batch_size):
        texts = [f"{prompt} {PICTURE_REQUEST}" for prompt in islice(prompts, begin, begin + batch_size)]
        tokens = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        with torch.no_grad():
            written = model.generate(
                **tokens, do_sample=False, max_new_tokens=_LONGEST_ANSWER,
                eos_token_id=[tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id],
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        for row in written[:, tokens.input_ids.shape[1] :]:
            text = tokenizer.decode(row, skip_special_tokens=True).partition(".")[0].strip()
            yield text, scene_said(text)


def scene_said(text: str) -> Scene | None:
    """The scene that a caption fully describes; `None` if it leaves anything out or is no caption."""
    known = parse_caption(text)
    try:
        return None if known is None else known.scene()
    except SceneError:
        return None


def _right(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], truth: list[Scene]
) -> float:  # fmt: skip
    found = [scene for _, scene in described_scenes(model, tokenizer, prompts)]
    return float(np.mean([one == other for one, other in zip(found, truth, strict=True)]))


def descriptions_of(ids: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Which of the words `(texts, length)` stand between `picture :` and the full stop, that included."""
    colon, stop = (tokenizer.convert_tokens_to_ids(word) for word in (":", STOP))
    before = torch.nn.functional.pad(ids, (1, 0))[:, :-1]
    # Colons begin descriptions, full stops end what is begun and everything else.
    begun = (before == colon).long().cumsum(1)
    places = torch.arange(ids.shape[1]).expand_as(ids)
    last_colon = torch.where(before == colon, places, -1).cummax(1).values
    last_stop = torch.where(before == stop, places, -1).cummax(1).values
    return (begun > 0) & (last_colon > last_stop)


def words_ahead(ids: torch.Tensor, places: torch.Tensor, number: int, padding: int) -> torch.Tensor:
    """The words that follow each place, `(places, number)`; padding where the text has ended.

    Args:
        ids: `(texts, length)`.
        places: bool `(texts, length)`.
    """
    following = nn.functional.pad(ids, (0, number), value=padding).unfold(1, number, 1)[:, 1:]
    return following[places]


class _Words(nn.Module):
    """The model with its losses: cross-entropy of the next word, each word with a weight of its own, and of all words
    of a description at the colon before it."""

    def __init__(self, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.ahead = nn.Linear(model.config.hidden_size, _WORDS_AHEAD * model.config.vocab_size)
        self._colon, self._padding = tokenizer.convert_tokens_to_ids(":"), tokenizer.pad_token_id

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        states = self.model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.model.lm_head(states)[:, :-1].float()
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
        next_word = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        colons = input_ids == self._colon
        return next_word + nn.functional.cross_entropy(
            self.at_once(states[colons]).float().flatten(0, 1),
            words_ahead(input_ids, colons, _WORDS_AHEAD, self._padding).flatten(),
            ignore_index=self._padding,
        )

    def at_once(self, states: torch.Tensor) -> torch.Tensor:
        """Logits `(places, words ahead, words)` of states `(places, width)`."""
        return self.ahead(states).unflatten(-1, (_WORDS_AHEAD, -1))


@torch.no_grad()
def measure_at_once(
    words: _Words, tokenizer: PreTrainedTokenizerBase, number: int, seed: int, batch_size: int = 100
) -> dict[str, float]:
    """How often the state at the colon after one, three and five sentences holds all of the description, each word."""
    figures = {}
    for sentences in (1, 3, 5):
        told = stories(VALIDATION, number, seed, 0.0)
        found: list[bool] = []
        for begin in range(0, number, batch_size):
            some = told[begin : begin + batch_size]
            texts = [" ".join(f"{one} ." for one in story.sentences[:sentences]) for story in some]
            prompts = [f"{text} {PICTURE_REQUEST}" for text in texts]
            tokens = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
            said = words.at_once(words.model.model(**tokens).last_hidden_state[:, -1]).argmax(-1)
            for ids, story in zip(said.tolist(), some, strict=True):
                text = tokenizer.decode(ids).partition(".")[0].strip()
                found.append(scene_said(text) == story.scenes[sentences - 1])
        figures[f"right_at_once_after_{sentences}"] = float(np.mean(found))
    return figures


__all__ = [
    "STAGE",
    "begin",
    "described_scenes",
    "descriptions_of",
    "measure_language_model",
    "quieten",
    "scene_said",
    "train_language_model",
    "with_stand_ins",
    "words_ahead",
]
