"""A DreamLLM between the picture book's models, and GILL's mapper trained by the same loss, all by `training_gill`.

The first stage of DreamLLM trains what is between the models, on pairs; the second one trains the language model too,
on stories in which text and images alternate.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from modeling_gill import GillForConditionalGeneration
from modeling_gill.atomic_write_gill import replace_folder
from pipeline_gill import GillPipeline
from training_gill import read_recipe, train
from training_gill.model_building import TRAINING_RECORD, build_model

from ..arguments import DreamArguments
from ..checkpoint_folder import DREAMLLM, find_checkpoint
from ..models.image_generator import plain_generator
from ..models.word_tokenizer import language_model_tokenizer
from ..world.pairs import PairMixture, save_pairs
from ..world.record_shards import illustrated_documents, pairs_to_draw, pairs_to_read, write_shards
from ..world.splits import TRAIN
from .assemble_repository import halve_weights

PAIRS, STORIES, DENOISING = "pairs", "stories", "gill_denoising"
RECORD = "record.json"
# Frozen models that are parts of the picture book's checkpoint, and joined by `load_dreamllm_pipeline`.
FROM_CHECKPOINT = "gill-multimodal-picturebook"
_MAX_NEW_TOKENS = 128
_TO_DRAW = PairMixture(single_share=0.4, plain_share=0.8, partial_share=0.0, jitter=False)
_TO_READ = PairMixture(single_share=0.2)
_OF_GILL = PairMixture(single_share=0.4, plain_share=1.0, partial_share=0.0, jitter=False)
_GROUP_SIZE = 8


@dataclass(frozen=True)
class DreamSettings:
    """
    Attributes:
        pairs, stories: Numbers of pairs to draw (a third as many are read), and of stories (a fifth as many are read).
        pairs_recipe, stories_recipe, denoising_recipe: Entries that differ from those of the three recipes.
    """

    pairs: int = 20_000
    stories: int = 5_000
    pairs_recipe: Mapping[str, Any] = field(default_factory=dict)
    stories_recipe: Mapping[str, Any] = field(default_factory=dict)
    denoising_recipe: Mapping[str, Any] = field(default_factory=dict)


_FEW = {"max_steps": 3, "per_device_train_batch_size": 4, "warmup_steps": 1, "save_steps": 2, "logging_steps": 1}
FAST = DreamSettings(64, 24, _FEW, _FEW, _FEW)


def train_dream(arguments: DreamArguments) -> Path:
    """
    Train both stages of DreamLLM, and GILL's mapper by the denoising loss. Run again, it goes on where it was stopped.

    Returns:
        `Path`: The folder of what `load_dreamllm_pipeline` joins to the checkpoint. Beside it, `pairs`, `stories` and
        `gill_denoising` are repositories that refer to the frozen models in `models`.

    Raises:
        FileNotFoundError: the picture book's checkpoint is not installed.

    Example:

        >>> from picturebook import DreamArguments, train_dream
        >>> train_dream(DreamArguments(out=Path("runs/dream")))  # doctest: +SKIP
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    out, settings, seed = Path(arguments.out).resolve(), FAST if arguments.fast else DreamSettings(), arguments.seed
    base = GillPipeline.from_pretrained(find_checkpoint())
    names = write_models(base, out / "models")
    data = write_data(out / "data", settings, seed)
    start = time.monotonic()
    for name, entries in (
        (PAIRS, {**settings.pairs_recipe, "train_data": pair_sets(data)}),
        (STORIES, {**settings.stories_recipe, "train_data": story_sets(data), "start_from": str(out / PAIRS)}),
    ):
        recipe = Path(__file__).with_name(f"dream_{name}.yaml")
        train(recipe, **names, **entries, output_dir=str(out / name), seed=seed)
    folder = out / "dreamllm"
    if not folder.exists():
        write_dreamllm(out, folder)
    train_denoising(base, names, out, settings, seed)
    print(f"dream: {(time.monotonic() - start) / 60:.1f} min of this call")
    if arguments.embed:
        with replace_folder(DREAMLLM, keep=("README.md",)) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
    print(f"The DreamLLM: {folder}")
    return folder


def write_models(base: GillPipeline, folder: Path) -> dict[str, str]:
    """The frozen models of a picture book as folders of their own, by the names of a recipe's entries.

    Raises:
        ValueError: its language model has other words than this code's.
    """
    names = {name: str(folder / name) for name in ("language_model", "vision_model", "image_generator")}
    if folder.exists():
        return names
    tokenizer = language_model_tokenizer()
    known = base.processor.tokenizer.get_vocab()
    rows = base.model.config.text_config.vocab_size
    if len(tokenizer) != rows or any(known.get(word) != number for word, number in tokenizer.get_vocab().items()):
        raise ValueError(f"The language model has {rows} words; expected the {len(tokenizer)} of this picture book.")
    with replace_folder(folder) as new:
        base.model.language_model.save_pretrained(new / "language_model")
        tokenizer.save_pretrained(new / "language_model")
        base.model.vision_model.save_pretrained(new / "vision_model")
        base.processor.image_processor.save_pretrained(new / "vision_model")
        plain_generator(base).save_pretrained(new / "image_generator")
    return names


def write_data(folder: Path, settings: DreamSettings, seed: int) -> Path:
    """Pairs and stories of the train split, as shards, and the pairs that GILL is trained on."""
    if not folder.exists():
        with replace_folder(folder) as new:
            number, read = settings.pairs, settings.pairs // 3
            write_shards(new, "draw", number, pairs_to_draw(TRAIN, number, seed, _TO_DRAW))
            write_shards(new, "read", read, pairs_to_read(TRAIN, read, seed, _TO_READ))
            number, read = settings.stories, settings.stories // 5
            write_shards(new, "story", number, illustrated_documents(TRAIN, number, seed))
            write_shards(new, "told", read, illustrated_documents(TRAIN, read, seed + 1, jitter=True))
            save_pairs(new / "gill", {TRAIN: settings.pairs}, seed, _OF_GILL, _GROUP_SIZE)
    return folder


def pair_sets(data: Path) -> list[dict[str, Any]]:
    """Sets of the first stage: three pairs to draw for each one that is read."""
    return [
        {"kind": "pairs", "files": str(data / "draw-*.tar"), "direction": "text_to_image"},
        {"kind": "pairs", "files": str(data / "read-*.tar"), "direction": "image_to_text"},
    ]


def story_sets(data: Path) -> list[dict[str, Any]]:
    """Sets of the second stage. In a sixth of the stories images are read only, as those of a prompt are; their objects
    are moved by a pixel, as in a prompt.

    Beside documents of five images, a pair would be a row of padding.
    """
    told = {"kind": "documents", "files": str(data / "told-*.tar"), "direction": "image_to_text"}
    return [{"kind": "documents", "files": str(data / "story-*.tar"), "size": 5_000}, {**told, "size": 1_000}]


def train_denoising(
    base: GillPipeline, names: Mapping[str, str], out: Path, settings: DreamSettings, seed: int
) -> None:
    """Train a new mapper of GILL by the denoising loss, with the checkpoint's visual projection."""
    recipe = Path(__file__).with_name("gill_denoising.yaml")
    initial = out / "gill_initial"
    entries = {
        **settings.denoising_recipe,
        **names,
        "train_data": str(out / "data" / "gill"),
        "output_dir": str(out / DENOISING),
        "seed": seed,
    }
    if not initial.exists():
        model, processor = build_model(read_recipe(recipe, **entries).model, torch.float32, seed)
        model.visual_projection.load_state_dict(base.model.visual_projection.state_dict())
        with replace_folder(initial) as new:
            model.save_pretrained(new)
            processor.save_pretrained(new)
    train(recipe, **entries, start_from=str(initial))


def write_dreamllm(run: Path, folder: Path) -> None:
    """Write the DreamLLM of a run without the models that the picture book's checkpoint has, in half precision."""
    pipe = GillPipeline.from_pretrained(run / STORIES)
    model: GillForConditionalGeneration = pipe.model
    model.config.vision_model_id = model.config.image_generator_id = FROM_CHECKPOINT
    for part in (model.config.text_config, model.config.vision_config):
        part._name_or_path = ""  # a folder of this machine
    model.generation_config.max_new_tokens = _MAX_NEW_TOKENS
    record: dict[str, Any] = {}
    for name in (PAIRS, STORIES):
        training = json.loads((run / name / TRAINING_RECORD).read_text(encoding="utf-8"))
        entries = {entry: training["training"][entry] for entry in ("per_device_train_batch_size", "seed")}
        record[name] = {"steps": training["steps"], **entries, "trained": training["losses"]["train"]}
    with replace_folder(folder) as new:
        model.save_pretrained(new)
        pipe.processor.save_pretrained(new)
        for path in new.glob("*.py"):
            path.unlink()
        halve_weights(new)
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
