"""The world's language model: an OPT that reads captions, stories and dialogues, and describes what is so now.

The hard thing to learn is which of two things a sentence means (`the car goes to the left`): half right by guessing, a
model stays so for long. What brings it about: positions that begin as waves, as loud as words, attention that begins by
looking for what is alike, and many events among two things at first.

What GILL then needs is a state that holds the whole image, as it reads images off states at `[IMG]`. A model that
learns the next word alone finds one word after the other; so this one learns to say, from its state at the colon that
asks for a description, all of its words at once (several words ahead, as of Gloeckle et al., 2024, and as there by a
linear layer that is thrown away), and in the end also what is where and whether there is an image of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerBase

from ..models.word_tokenizer import NEWLINE, language_model_tokenizer
from ..world.caption_grammar import layout, parse_caption
from ..world.documents import ALL_KINDS, EVENTS_FIRST, Mixture, document, remark, stand_in
from ..world.drawing import draw
from ..world.phrases import IMAGE_REQUEST, STOP
from ..world.scene import PLACES, Scene, SceneError
from ..world.splits import TRAIN, VALIDATION, dialogues, stories, stream
from ..world.story_sampling import Story
from .run_folder import Place
from .training_loop import LossOfStep, Part, Schedule, remove_checkpoints, run_parts

STAGE = "language_model"
# Texts whose numbers of words differ by less are of about one length.
_ABOUT = 16
_POSITIONS, _BATCHES_SORTED, _LONGEST_ANSWER, _DESCRIPTION_WEIGHT = 320, 16, 24, 5.0
# As many words as the longest description with its full stop and a remark.
_WORDS_AHEAD = 22
# Words that say what is where, and whether there is an image of it.
_LAYOUT = 1 + 2 * len(PLACES) + 1
# How loud words and positions are at first, and how loud words are in the end.
_LOUDNESS, _USUAL_LOUDNESS = 0.3, 0.1
# How many times as long the longest of a position's waves is as the shortest, which repeats after six words.
_LONGEST_WAVE = 400.0
# With embeddings so loud, also those that score the next word, scores begin as small as is usual by this gain.
_FIRST_GAIN = 0.17
# Of the weights of queries and keys at first.
_ALIKE = 0.06


@dataclass(frozen=True)
class Phase:
    """A part of training.

    Attributes:
        schedule: How long.
        mixture: Of documents.
        event_steps: For so many steps at its begin all documents are events among two things.
        layouts: Whether the state at a colon also learns to say what is where, see [`layout`]. A description tells of
            things in an order that no image shows; retrieval compares by linear maps alone, and finds what both
            sides hold place by place.
        remarks: Whether it then also learns to say whether there is an image of it. What GILL decides, a linear layer
            reads off such a state.
    """

    schedule: Schedule
    mixture: Mixture = ALL_KINDS
    event_steps: int = 0
    layouts: bool = False
    remarks: bool = False


def train_language_model(
    place: Place, phases: Sequence[Phase], width: int, layers: int, measured: int, seed: int = 0
) -> None:
    """Train on [`documents`], measure how well it describes the present state, and save it with its tokenizer.

    Words of descriptions weigh more than others: they follow from what was told, where most other words of a story
    could as well be others. After each phase the model is made quiet, see [`quieten`].
    """
    tokenizer = language_model_tokenizer()
    torch.manual_seed(seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            word_embed_proj_dim=width,
            num_hidden_layers=layers,
            ffn_dim=4 * width,
            num_attention_heads=max(width // 32, 1),
            max_position_embeddings=_POSITIONS,
            dropout=0.0,
            init_std=0.03,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    begin(model)
    seconds, at_once = 0.0, {}  # type: float, dict[str, float]
    for number, phase in enumerate(phases, start=1):
        words = _Words(model, tokenizer)
        part = Part(phase.schedule, _loss_of_step(words, _Batches(tokenizer, phase, number, seed)))
        seconds += run_parts(f"{STAGE}, phase {number}", words, [part], place.checkpoints(STAGE) / str(number), seed)
        if number == len(phases):
            # While its heads are there, and as loud as they know it.
            at_once = measure_at_once(words, tokenizer, measured, seed)
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


def _loss_of_step(words: "_Words", batches: "_Batches") -> LossOfStep:
    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        ids, mask, layouts = batches[step]
        tokenizer, device = batches.tokenizer, words.model.device
        weights = mask.float() * (1 + (_DESCRIPTION_WEIGHT - 1) * descriptions_of(ids, tokenizer).float())
        batch = [one.to(device) for one in (ids, mask, weights)]
        return words(*batch, None if layouts is None else layouts.to(device))

    return loss_of_step


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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, phase: Phase, number: int, seed: int) -> None:
        self.tokenizer, self._phase, self._size, self._seed = tokenizer, phase, phase.schedule.batch_size, seed
        self._purpose = "documents" if number == 1 else f"documents of phase {number}"
        self._group, self._ready = -1, []  # type: int, list[list[str]]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Ids and attention mask `(texts, length)`, and [`layouts_of`] the texts where the phase asks for them."""
        group, at = divmod(number, _BATCHES_SORTED)
        if group != self._group:
            generator = stream(self._seed, TRAIN, f"{self._purpose} {group}")
            events = group * _BATCHES_SORTED < self._phase.event_steps
            mixture = EVENTS_FIRST if events else self._phase.mixture
            texts = [document(TRAIN, generator, mixture) + NEWLINE for _ in range(self._size * _BATCHES_SORTED)]
            texts.sort(key=lambda text: text.count(" ") // _ABOUT)
            cut = [texts[begin : begin + self._size] for begin in range(0, len(texts), self._size)]
            self._group, self._ready = group, [cut[place] for place in generator.permutation(len(cut))]
        tokens = self.tokenizer(self._ready[at], padding=True, padding_side="right", return_tensors="pt")
        phase = self._phase
        layouts = layouts_of(self._ready[at], self.tokenizer, phase.remarks) if phase.layouts else None
        return tokens.input_ids, tokens.attention_mask, layouts


def measure_language_model(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> dict[str, float]:
    """How often the description after `picture :` is of the scene that is so, all of it.

    After one to five sentences of stories whose sentences tell all; after five with what the first four images show
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
    prompts = [one.text().removesuffix(IMAGE_REQUEST).rstrip() for one in asked]
    figures["right_after_dialogue"] = _right(model, tokenizer, prompts, [one.scene for one in asked])
    return figures


def with_stand_ins(story: Story) -> str:
    """All sentences, and behind each but the last what its image shows."""
    parts = []
    for sentence, scene in zip(story.sentences[:-1], story.scenes, strict=False):
        parts += [f"{sentence} .", stand_in(scene)]
    return " ".join([*parts, f"{story.sentences[-1]} ."])


def described_scenes(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], batch_size: int = 100
) -> Iterator[tuple[str, Scene | None]]:
    """What the model says after each prompt and `picture :`, up to the full stop, and the scene that this means."""
    for begin in range(0, len(prompts), batch_size):
        texts = [f"{prompt} {IMAGE_REQUEST}" for prompt in islice(prompts, begin, begin + batch_size)]
        tokens = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt").to(model.device)
        with torch.no_grad():
            written = model.generate(
                **tokens,
                do_sample=False,
                max_new_tokens=_LONGEST_ANSWER,
                eos_token_id=[tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id],
                pad_token_id=tokenizer.pad_token_id,
            )
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


def _right(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], truth: list[Scene]) -> float:
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


def layouts_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, remarks: bool) -> torch.Tensor:
    """What is where after each colon of the texts, and whether there is an image of it, `(colons, words)`.

    Padding stands where not all is told, and for the last of these words without `remarks`.
    """
    found, padding = [], tokenizer.pad_token
    for text in texts:
        words = text.split()
        for place in (at for at, word in enumerate(words) if word == ":"):
            ends = (at for at in range(place + 1, len(words)) if words[at] in (":", STOP))
            scene = scene_said(" ".join(words[place + 1 : next(ends, len(words))]))
            found.append(
                f"{layout(scene)} {remark(scene) if remarks else padding}" if scene else f"{padding} " * _LAYOUT
            )
    return tokenizer(found, return_tensors="pt").input_ids


class _Words(nn.Module):
    """The model with its losses: cross-entropy of the next word, each word with a weight of its own, and, at a colon,
    of all words of the description that follows and of what is where."""

    def __init__(self, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.model = model
        self.ahead = nn.Linear(model.config.hidden_size, _WORDS_AHEAD * model.config.vocab_size)
        self.layout = nn.Linear(model.config.hidden_size, _LAYOUT * model.config.vocab_size)
        self._colon, self._padding = tokenizer.convert_tokens_to_ids(":"), tokenizer.pad_token_id

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, weights: torch.Tensor, layouts: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss; shapes as of [`_Batches`], `weights` as `mask`."""
        states = self.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = self.model.lm_head(states)[:, :-1].float()
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        loss = (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()
        colons = ids == self._colon
        loss = loss + self._cross_entropy(
            self.ahead(states[colons]), words_ahead(ids, colons, _WORDS_AHEAD, self._padding)
        )
        return loss if layouts is None else loss + self._cross_entropy(self.layout(states[colons]), layouts)

    def at_once(self, states: torch.Tensor) -> torch.Tensor:
        """The words ahead that states `(places, width)` hold, `(places, words)`."""
        return self.ahead(states).unflatten(-1, (_WORDS_AHEAD, -1)).argmax(-1)

    def _cross_entropy(self, logits: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        each = logits.float().reshape(words.numel(), -1)
        return nn.functional.cross_entropy(each, words.flatten(), ignore_index=self._padding)


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
            prompts = [f"{text} {IMAGE_REQUEST}" for text in texts]
            tokens = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
            said = words.at_once(words.model.model(**tokens).last_hidden_state[:, -1])
            for ids, story in zip(said.tolist(), some, strict=True):
                text = tokenizer.decode(ids).partition(".")[0].strip()
                found.append(scene_said(text) == story.scenes[sentences - 1])
        figures[f"right_at_once_after_{sentences}"] = float(np.mean(found))
    return figures
