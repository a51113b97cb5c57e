"""Training of the language model on documents of captions, events, stories and dialogues."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerBase

from modeling_gill.atomic_write_gill import replace_folder

from ..models.language_model import (
    LanguageModelLosses,
    described_scenes,
    descriptions_of,
    initialize_weights,
    layouts_of,
    parse_full_caption,
    reduce_embedding_scale,
)
from ..models.word_tokenizer import NEWLINE, language_model_tokenizer
from ..world.documents import ALL_KINDS, EVENTS_FIRST, DocumentMixture, document, image_in_words
from ..world.drawing import draw
from ..world.phrases import IMAGE_REQUEST
from ..world.scene import Scene
from ..world.splits import TRAIN, VALIDATION, dialogues, stories, stream
from ..world.story_sampling import SceneStory
from .run_folder import RunFolder
from .training_loop import LossOfStep, Part, Schedule, remove_checkpoints, run_parts

STAGE = "language_model"
# Texts whose numbers of words differ by less are of about one length.
_ABOUT = 16
_POSITIONS, _BATCHES_SORTED, _DESCRIPTION_WEIGHT = 320, 16, 5.0


@dataclass(frozen=True)
class LanguageModelPhase:
    """A part of training.

    Attributes:
        schedule: Steps, learning rate and so on.
        mixture: Documents to train on.
        event_steps: Steps at the start in which all documents are events between two objects.
        layouts: Whether the state at a colon also predicts what is at each place, see [`layout`]. The order of objects
            in a description is not visible in an image, and retrieval compares by linear maps alone, which can only
            match what both sides represent place by place.
        availability: Whether it also predicts whether the retrieval set has an image of the scene. A linear layer reads
            GILL's decision from such a state.
    """

    schedule: Schedule
    mixture: DocumentMixture = ALL_KINDS
    event_steps: int = 0
    layouts: bool = False
    availability: bool = False


def train_language_model(
    run: RunFolder, phases: Sequence[LanguageModelPhase], width: int, layers: int, measured: int, seed: int = 0
) -> None:
    """Train on [`documents`], measure how well it describes the present state, and save it with its tokenizer.

    Words of descriptions have a higher weight: they follow from the text before, unlike most other words of a story.
    At the end of each phase the embeddings are scaled, see [`reduce_embedding_scale`].
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
    initialize_weights(model)
    seconds, at_once = 0.0, {}  # type: float, dict[str, float]
    for number, phase in enumerate(phases, start=1):
        words = LanguageModelLosses(model, tokenizer)
        part = Part(phase.schedule, _loss_of_step(words, _Batches(tokenizer, phase, number, seed)))
        seconds += run_parts(f"{STAGE}, phase {number}", words, [part], run.checkpoints(STAGE) / str(number), seed)
        if number == len(phases):
            # With the heads, and before the embeddings are scaled.
            at_once = measure_at_once(words, tokenizer, measured, seed)
        reduce_embedding_scale(model)

    with replace_folder(run.folder(STAGE)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_sheet(run, model, tokenizer, seed)
    run.write_metrics(
        STAGE,
        {"parameters": sum(one.numel() for one in model.parameters()), "minutes": seconds / 60}
        | measure_language_model(model, tokenizer, measured, seed)
        | at_once,
    )
    remove_checkpoints(run.checkpoints(STAGE))


def _loss_of_step(words: LanguageModelLosses, batches: "_Batches") -> LossOfStep:
    def loss_of_step(step: int, generator: torch.Generator) -> torch.Tensor:
        ids, mask, layouts = batches[step]
        tokenizer, device = batches.tokenizer, words.model.device
        weights = mask.float() * (1 + (_DESCRIPTION_WEIGHT - 1) * descriptions_of(ids, tokenizer).float())
        batch = [one.to(device) for one in (ids, mask, weights)]
        return words(*batch, None if layouts is None else layouts.to(device))

    return loss_of_step


def _write_sheet(run: RunFolder, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """The last scenes of stories, and beside each what the model says it is; black where it says no scene."""
    told = [story for story in stories(VALIDATION, 40, seed) if story.complete]
    found = [scene for _, scene in described_scenes(model, tokenizer, [story.text for story in told])]
    truth = [draw(story.scenes[-1]) for story in told]
    said = [np.zeros_like(truth[0]) if scene is None else draw(scene) for scene in found]
    run.write_pairs_sheet(STAGE, truth, said)


class _Batches:
    """Batches of documents by number; texts of about one length together, so that little is padding.

    Of about one length only: events of one kind are of one length, and a batch of one kind teaches little.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, phase: LanguageModelPhase, number: int, seed: int) -> None:
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
            cut = [texts[start : start + self._size] for start in range(0, len(texts), self._size)]
            self._group, self._ready = group, [cut[place] for place in generator.permutation(len(cut))]
        tokens = self.tokenizer(self._ready[at], padding=True, padding_side="right", return_tensors="pt")
        phase = self._phase
        layouts = layouts_of(self._ready[at], self.tokenizer, phase.availability) if phase.layouts else None
        return tokens.input_ids, tokens.attention_mask, layouts


def measure_language_model(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> dict[str, float]:
    """How often the description after `picture :` is of the scene that is so, all of it.

    After one to five sentences of stories whose sentences tell all; after five with what the first four images show
    after each sentence, in stories that leave something out; and after dialogues.
    """
    told = stories(VALIDATION, number, seed, 0.0)
    metrics = {}
    for sentences in (1, 3, 5):
        prompts = [" ".join(f"{one} ." for one in story.sentences[:sentences]) for story in told]
        truth = [story.scenes[sentences - 1] for story in told]
        metrics[f"right_after_{sentences}"] = _right(model, tokenizer, prompts, truth)
    partial_share = stories(VALIDATION, number, seed)
    prompts = [with_images_in_words(story) for story in partial_share]
    metrics["right_after_5_with_stand_ins"] = _right(
        model, tokenizer, prompts, [story.scenes[-1] for story in partial_share]
    )
    asked = [one for one in dialogues(VALIDATION, number, seed) if one.known[-1].complete]
    prompts = [one.text().removesuffix(IMAGE_REQUEST).rstrip() for one in asked]
    metrics["right_after_dialogue"] = _right(model, tokenizer, prompts, [one.scene for one in asked])
    return metrics


def with_images_in_words(story: SceneStory) -> str:
    """All sentences, each but the last followed by its image in words."""
    parts = []
    for sentence, scene in zip(story.sentences[:-1], story.scenes, strict=False):
        parts += [f"{sentence} .", image_in_words(scene)]
    return " ".join([*parts, f"{story.sentences[-1]} ."])


def _right(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], truth: list[Scene]) -> float:
    found = [scene for _, scene in described_scenes(model, tokenizer, prompts)]
    return float(np.mean([one == other for one, other in zip(found, truth, strict=True)]))


@torch.no_grad()
def measure_at_once(
    words: LanguageModelLosses, tokenizer: PreTrainedTokenizerBase, number: int, seed: int, batch_size: int = 100
) -> dict[str, float]:
    """How often the state at the colon after one, three and five sentences holds all of the description, each word."""
    metrics = {}
    for sentences in (1, 3, 5):
        told = stories(VALIDATION, number, seed, 0.0)
        found: list[bool] = []
        for start in range(0, number, batch_size):
            some = told[start : start + batch_size]
            texts = [" ".join(f"{one} ." for one in story.sentences[:sentences]) for story in some]
            prompts = [f"{text} {IMAGE_REQUEST}" for text in texts]
            tokens = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
            said = words.at_once(words.model.model(**tokens).last_hidden_state[:, -1])
            for ids, story in zip(said.tolist(), some, strict=True):
                text = tokenizer.decode(ids).partition(".")[0].strip()
                found.append(parse_full_caption(text) == story.scenes[sentences - 1])
        metrics[f"right_at_once_after_{sentences}"] = float(np.mean(found))
    return metrics
