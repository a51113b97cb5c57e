"""Adapters between a pretrained language model of English and the picture book's other models.

The `[IMG]` rows are those of a question's tokens, but for a small step that lets the language model write `[IMG0]`
after requests. So all states are computed once, and the adapters are trained on cached states, in minutes.
"""

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.atomic_write_gill import replace_file, replace_folder
from pipeline_gill import GillPipeline

from ..arguments import EnglishArguments
from ..checkpoint_folder import SMOLLM2_ADAPTERS, find_checkpoint
from ..models.question_adapters import QuestionAdapters
from ..models.question_features import WORDS, Examples, fit_features
from ..models.smollm2 import HUB_ID, WEIGHTS, load_language_model, random_language_model
from ..world.caption_grammar import parse_caption
from ..world.english import ATTRIBUTES, requests_by_phrase
from ..world.scene import is_retrievable
from ..world.splits import VALIDATION, stream
from .assemble_repository import halve_weights
from .english_asking import asking_step
from .english_data import Prompt, build_data, loss_of_step, sample_english
from .english_images import fit_visual_projection
from .english_states import QUESTIONS, AskedModel, StateReader, as_chat, cached_states, rows_of
from .training_loop import Part, Schedule, run_parts

NUM_VISUAL_TOKENS = 13
_READ_PAIRS = 6_000
# The image encoder is part of the picture book's checkpoint, and joined by `load_smollm2_pipeline`.
EXAMPLES_FILE = "chat_examples.json"
VISION_MODEL = "gill-multimodal-picturebook"
RECORD = "record.json"
_SCHEDULE = Schedule(4_600, 64, 2e-3, warmup=60, decay=0.7)


@dataclass(frozen=True)
class EnglishSettings:
    """
    Attributes:
        one, two: Numbers of prompts with one and with two objects.
        schedule: Of the adapters.
        width, layers, ffn: Sizes of the mapper.
        pairs: Images that the visual projection is fitted to.
        times: Requests for each phrase that is kept for choosing.
    """

    one: int = 1_536
    two: int = 3_072
    schedule: Schedule = _SCHEDULE
    width: int = 80
    layers: int = 3
    ffn: int = 240
    pairs: int = _READ_PAIRS
    times: int = 3


FAST = EnglishSettings(64, 64, Schedule(20, 16, 2e-3, warmup=5), 32, 1, 64, 200, times=1)


def train_english(arguments: EnglishArguments) -> Path:
    """
    Train adapters for SmolLM2, with `random_weights` for a model of its shape that was never trained, or with
    `own_model` for the picture book's own language model.

    Run again, it goes on where it was stopped.

    Returns:
        `Path`: The folder of the adapters.

    Raises:
        LanguageModelMissing: SmolLM2 is not there; the message says how to fetch it.
        FileNotFoundError: the picture book's checkpoint is not installed.
        ValueError: both `random_weights` and `own_model`, or one of them and `embed`.

    Example:

        >>> from picturebook import EnglishArguments, train_english
        >>> train_english(EnglishArguments(out=Path("runs/english")))  # doctest: +SKIP
    """
    start = time.monotonic()
    base = GillPipeline.from_pretrained(find_checkpoint())
    settings = FAST if arguments.fast else EnglishSettings()
    asked = asked_model(base, arguments)
    folder = train_adapters_on_states(base, asked, settings, Path(arguments.out), arguments.seed)
    print(f"The adapters: {folder}, {(time.monotonic() - start) / 60:.1f} min of this call")
    if arguments.embed:
        with replace_folder(SMOLLM2_ADAPTERS, keep=("README.md", EXAMPLES_FILE)) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
    return folder


def asked_model(base: GillPipeline, arguments: EnglishArguments) -> AskedModel:
    """The language model that the options name.

    Raises:
        LanguageModelMissing: SmolLM2 is not there. ValueError: options that exclude each other.
    """
    compared = arguments.random_weights + arguments.own_model
    if compared > 1 or (compared and arguments.embed):
        raise ValueError("Of `random_weights`, `own_model` and `embed` there can be one.")
    if arguments.own_model:
        return own_language_model(base)
    model, tokenizer = load_language_model(arguments.language_model, torch.bfloat16)
    if arguments.random_weights:
        return english_model(random_language_model(model, arguments.seed), tokenizer, "random, of the same shape")
    # A model with random weights writes nothing, and is always asked.
    return replace(english_model(model, tokenizer, WEIGHTS), learns_to_ask=True)


def english_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, weights: str) -> AskedModel:
    """SmolLM2, or a model like it, which reads its own chat template."""
    return AskedModel(model, tokenizer, partial(as_chat, tokenizer=tokenizer), weights, hub_id=HUB_ID)


def own_language_model(base: GillPipeline) -> AskedModel:
    """The picture book's language model, with its own chat template and the `[IMG]` rows of its adapters."""

    def as_prompt(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return str(base.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    rows = base.model.img_embeddings.weight.detach().float()
    return AskedModel(base.model.language_model, base.processor.tokenizer, as_prompt, "the picture book's own", rows)


def train_adapters_on_states(
    base: GillPipeline, asked: AskedModel, settings: EnglishSettings, out: Path, seed: int = 0
) -> Path:
    """Compute states, train, and write `out/adapters`.

    Args:
        base: The picture book, whose other models are kept.
    """
    language_model, tokenizer = asked.language_model, asked.tokenizer
    work, folder = out / "work", out / "adapters"
    if (folder / RECORD).is_file():
        print(f"{folder}: trained before")
        return folder
    work.mkdir(parents=True, exist_ok=True)
    seconds = time.monotonic()
    prompts = sample_english(settings.one, 1.0, seed) + sample_english(settings.two, 0.0, seed)
    unseen = requests_by_phrase(VALIDATION, stream(seed, VALIDATION, "english phrases"), settings.times)
    rows = _image_rows(asked, work, seed)
    reader = StateReader(language_model, tokenizer, rows)
    texts = [asked.as_prompt(text) for text in (*(each.text for each in prompts), *(each.text for each in unseen))]
    states = torch.from_numpy(cached_states(reader, texts, work / "states", "states"))
    states, unseen_states = states.split([len(prompts), len(unseen)])
    seconds = time.monotonic() - seconds
    gill = build_gill(base, asked, rows, settings, seed)
    known = [parse_caption(prompt.caption) for prompt in prompts]
    features = fit_features(
        Examples(states, [item for item in known if item is not None], [-1] * len(known)),
        Examples(unseen_states, [each.known for each in unseen], [ATTRIBUTES.index(each.attribute) for each in unseen]),
        [word_rows(language_model, tokenizer, words) for words in WORDS],
    )
    print(f"english: answers are {'' if features.trusted else 'not '}trusted", flush=True)
    adapters = QuestionAdapters(gill, features)
    data = build_data(base, features(states), prompts)
    part = Part(settings.schedule, partial(loss_of_step, adapters, gill, data, settings.schedule.batch_size))
    trained = run_parts("english", adapters, [part], work / "adapters", seed)
    adapters.fold(gill, features)
    print("english: fits the decision and the visual projection", flush=True)
    fit_decision(gill, states, prompts)
    fit_visual_projection(base, gill, tokenizer, settings.pairs, seed)
    record = {
        "language_model": asked.hub_id,
        "weights": asked.weights,
        "questions": QUESTIONS if asked.img_rows is None else None,
        "answers_trusted": features.trusted,
        "prompts": {"one object": settings.one, "two objects": settings.two, "to choose by": len(unseen)},
        "steps": settings.schedule.steps,
        "seed": seed,
        "minutes": {"states, of the last call": round(seconds / 60, 1), "adapters": round(trained / 60, 1)},
    }
    save_adapters(gill, folder, record)
    return folder


def word_rows(
    language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> list[torch.Tensor]:
    """Output rows `(num_words, hidden_size)` of words inside a sentence, and their means over forms of one token."""
    head = language_model.get_output_embeddings().weight.detach().float()

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    inside = [ids(f" {word}")[0] for word in words]
    forms = [[ids(form) for form in (f" {word}", word, f" {word.capitalize()}", word.capitalize())] for word in words]
    single = [
        [found[0] for found in each if len(found) == 1] or [first] for each, first in zip(forms, inside, strict=True)
    ]
    return [head[inside], torch.stack([head[each].mean(0) for each in single])]


def _image_rows(asked: AskedModel, work: Path, seed: int) -> torch.Tensor:
    path = work / "rows.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    rows = rows_of(asked.language_model, asked.tokenizer) if asked.img_rows is None else asked.img_rows
    if asked.learns_to_ask:
        rows[0] += asking_step(asked.language_model, asked.tokenizer, rows, seed)
    with replace_file(path) as new:
        torch.save(rows, new)
    return rows


def build_gill(
    base: GillPipeline, asked: AskedModel, rows: torch.Tensor, settings: EnglishSettings, seed: int
) -> GillForConditionalGeneration:
    """New adapters between a language model and the picture book's image encoder, whose retrieval space is kept."""
    language_model, tokenizer = asked.language_model, asked.tokenizer
    img_tokens = [f"[IMG{number}]" for number in range(len(rows))]
    GillProcessor.extend_tokenizer(tokenizer, img_tokens)
    old = base.model.config
    fields = {name: value for name, value in language_model.config.to_dict().items() if not name.startswith("_")}
    config = GillConfig(
        text_config=AutoConfig.for_model(**fields),
        vision_config=copy.deepcopy(old.vision_config),
        language_model_id=asked.hub_id,
        vision_model_id=VISION_MODEL,
        image_token_id=tokenizer.cls_token_id,
        image_output_token_ids=tokenizer.convert_tokens_to_ids(img_tokens),
        num_visual_tokens=NUM_VISUAL_TOKENS,
        retrieval_dim=old.retrieval_dim,
        mapper_hidden_size=settings.width,
        mapper_num_layers=settings.layers,
        mapper_num_heads=4,
        mapper_ffn_dim=settings.ffn,
        conditioning_length=old.conditioning_length,
        conditioning_dim=old.conditioning_dim,
        distinct_image_states=True,
        decision_input="conditioning",
    )
    torch.manual_seed(seed)
    gill = GillForConditionalGeneration(config, defer_backbones=True)
    gill.attach_backbones(language_model, base.model.vision_model)
    with torch.no_grad():
        gill.img_embeddings.weight.copy_(rows)
        gill.logit_scale.copy_(base.model.logit_scale)
    gill.image_retrieval_head.load_state_dict(base.model.image_retrieval_head.state_dict())
    for head in (gill.image_retrieval_head, gill.img_embeddings):
        head.requires_grad_(False)
    gill.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=96,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return gill


@torch.no_grad()
def mapped_states(gill: GillForConditionalGeneration, states: torch.Tensor) -> torch.Tensor:
    """What the decision head reads of cached states, `(num_prompts, decision_dim)`."""
    return torch.cat([gill.decision_states(part.float()) for part in states.split(256)])


def fit_decision(gill: GillForConditionalGeneration, states: torch.Tensor, prompts: Sequence[Prompt]) -> None:
    """Fit the decision head, by logistic regression: retrieve where the retrieval set has the scene."""
    read = mapped_states(gill, states)
    mean, std = read.mean(0), read.std(0) + 1e-2 * read.std()
    read = (read - mean) / std
    labels = torch.tensor([float(is_retrievable(prompt.scene)) for prompt in prompts])
    weight = torch.zeros(read.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(read @ weight + bias, labels)
        loss = loss + 1e-3 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        scaled = weight / std / 2
        offset = (bias - (weight / std * mean).sum()) / 2
        # As `evaluation_gill.decisions.DECISIONS`: to generate, to retrieve.
        assert gill.decision_head is not None
        gill.decision_head.weight.copy_(torch.stack([-scaled, scaled]))
        gill.decision_head.bias.copy_(torch.stack([-offset, offset]))


def save_adapters(gill: GillForConditionalGeneration, folder: Path, record: dict[str, Any]) -> None:
    """Write adapters and configuration, in half precision and without code; the record last."""
    with replace_folder(folder) as new:
        gill.save_pretrained(new)
        for path in new.glob("*.py"):
            path.unlink()
        halve_weights(new)
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
