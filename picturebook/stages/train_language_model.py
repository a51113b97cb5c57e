"""Training of the language model on documents of captions, events, stories and dialogues."""

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
    reduce_embedding_scale,
)
from ..models.word_tokenizer import NEWLINE, language_model_tokenizer
from ..world.documents import EVENTS_FIRST, document, image_in_words
from ..world.drawing import draw
from ..world.phrases import IMAGE_REQUEST
from ..world.scene import Scene
from ..world.splits import TRAIN, VALIDATION, dialogues, stories, stream
from ..world.story_sampling import SceneStory
from .run_folder import RunFolder
from .settings import LanguageModelPhase, Settings
from .training_loop import Part, run_parts

STAGE = "language_model"
# Texts whose numbers of words differ by less are of about one length.
_ABOUT = 16
_POSITIONS, _BATCHES_SORTED, _DESCRIPTION_WEIGHT = 320, 16, 5.0


def train_language_model(run: RunFolder, settings: Settings, seed: int = 0) -> None:
    """Train on [`documents`], measure how well the model describes the current scene, and save it with its tokenizer.

    Words of descriptions have a higher weight: they follow from the text before, unlike most other words of a story.
    At the end of each phase the embeddings are scaled, see [`reduce_embedding_scale`].
    """
    width, measured = settings.language_model_width, settings.measured
    tokenizer = language_model_tokenizer()
    torch.manual_seed(seed)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            word_embed_proj_dim=width,
            num_hidden_layers=settings.language_model_layers,
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
    seconds = 0.0
    for number, phase in enumerate(settings.language_model, start=1):
        with_loss = LanguageModelLosses(model, tokenizer)
        parts = [Part(phase, _Loss(with_loss, tokenizer, phase, number, seed))]
        seconds += run_parts(f"{STAGE}, phase {number}", with_loss, parts, run.checkpoints(STAGE) / str(number), seed)
        if phase is settings.language_model[-1]:
            # With the heads, and before the embeddings are scaled.
            at_once = measure_at_once(with_loss, tokenizer, measured, seed)
        reduce_embedding_scale(model)
    with replace_folder(run.folder(STAGE)) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _write_sheet(run, model, tokenizer, seed)
    metrics = {"parameters": model.num_parameters(), "minutes": seconds / 60}
    run.write_metrics(STAGE, metrics | measure_language_model(model, tokenizer, measured, seed) | at_once)


class _Loss:
    """The loss of a step on a batch of documents, in which texts of about one length are together to save padding.

    Of about one length only: events of one kind are of one length, and a batch of one kind teaches little.
    """

    def __init__(
        self,
        with_loss: LanguageModelLosses,
        tokenizer: PreTrainedTokenizerBase,
        phase: LanguageModelPhase,
        number: int,
        seed: int,
    ) -> None:
        self._with_loss, self._tokenizer, self._phase, self._seed = with_loss, tokenizer, phase, seed
        self._purpose = "documents" if number == 1 else f"documents of phase {number}"
        self._group, self._batches = -1, []  # type: int, list[list[str]]

    def __call__(self, step: int, generator: torch.Generator) -> torch.Tensor:
        texts = self._texts(step)
        tokens = self._tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        described = descriptions_of(tokens.input_ids, self._tokenizer)
        weights = tokens.attention_mask.float() * (1 + (_DESCRIPTION_WEIGHT - 1) * described.float())
        layouts = layouts_of(texts, self._tokenizer, self._phase.availability) if self._phase.layouts else None
        batch = (tokens.input_ids, tokens.attention_mask, weights, layouts)
        device = self._with_loss.model.device
        return self._with_loss(*(None if tensor is None else tensor.to(device) for tensor in batch))

    def _texts(self, step: int) -> list[str]:
        group, number = divmod(step, _BATCHES_SORTED)
        if group != self._group:
            generator, size = stream(self._seed, TRAIN, f"{self._purpose} {group}"), self._phase.batch_size
            events = group * _BATCHES_SORTED < self._phase.event_steps
            mixture = EVENTS_FIRST if events else self._phase.mixture
            texts = [document(TRAIN, generator, mixture) + NEWLINE for _ in range(size * _BATCHES_SORTED)]
            texts.sort(key=lambda text: text.count(" ") // _ABOUT)
            cut = [texts[start : start + size] for start in range(0, len(texts), size)]
            self._group, self._batches = group, [cut[place] for place in generator.permutation(len(cut))]
        return self._batches[number]


def _write_sheet(run: RunFolder, model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
    """The last scenes of stories, and to the right of each the one that the model describes; black for none."""
    complete = [story for story in stories(VALIDATION, 40, seed) if story.complete]
    described = [scene for _, scene in described_scenes(model, tokenizer, [story.text for story in complete])]
    expected = [draw(story.scenes[-1]) for story in complete]
    actual = [np.zeros_like(expected[0]) if scene is None else draw(scene) for scene in described]
    run.write_pairs_sheet(STAGE, expected, actual)


def measure_language_model(
    model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> dict[str, float]:
    """How often the description after `picture :` is entirely of the current scene.

    After one to five sentences of stories whose sentences leave nothing out; after five with the first four images in
    words after their sentences, in stories that leave something out; and after dialogues.
    """
    complete = stories(VALIDATION, number, seed, 0.0)
    items = {
        f"right_after_{sentences}": [(story.beginning(sentences), story.scenes[sentences - 1]) for story in complete]
        for sentences in (1, 3, 5)
    }
    items["right_after_5_with_images_in_words"] = [
        (with_images_in_words(story), story.scenes[-1]) for story in stories(VALIDATION, number, seed)
    ]
    items["right_after_dialogue"] = [
        (dialogue.text().removesuffix(IMAGE_REQUEST).rstrip(), dialogue.scene)
        for dialogue in dialogues(VALIDATION, number, seed)
        if dialogue.known[-1].complete
    ]
    return {name: _right_share(model, tokenizer, pairs) for name, pairs in items.items()}


def with_images_in_words(story: SceneStory) -> str:
    """All sentences, each but the last followed by its image in words."""
    parts = []
    for sentence, scene in zip(story.sentences[:-1], story.scenes, strict=False):
        parts += [f"{sentence} .", image_in_words(scene)]
    return " ".join([*parts, f"{story.sentences[-1]} ."])


def _right_share(model: OPTForCausalLM, tokenizer: PreTrainedTokenizerBase, items: list[tuple[str, Scene]]) -> float:
    described = described_scenes(model, tokenizer, [prompt for prompt, _ in items])
    return float(np.mean([scene == expected for (_, scene), (_, expected) in zip(described, items, strict=True)]))


def measure_at_once(
    with_loss: LanguageModelLosses, tokenizer: PreTrainedTokenizerBase, number: int, seed: int
) -> dict[str, float]:
    """How often the state at the colon after one, three and five sentences holds each word of the description."""
    complete_stories = stories(VALIDATION, number, seed, 0.0)
    metrics = {}
    for sentences in (1, 3, 5):
        scenes = with_loss.scenes_at_once(tokenizer, [story.beginning(sentences) for story in complete_stories])
        right = [scene == story.scenes[sentences - 1] for scene, story in zip(scenes, complete_stories, strict=True)]
        metrics[f"right_at_once_after_{sentences}"] = float(np.mean(right))
    return metrics
