"""Adapters between a pretrained language model of English and the picture book's other models.

The `[IMG]` rows are those of a question's tokens, but for a small step that lets the language model write `[IMG0]`
after requests. So all states are computed once, and the adapters are trained on cached states, in minutes.
"""

import copy
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from modeling_gill.atomic_write_gill import replace_file, replace_folder
from pipeline_gill import GillPipeline
from training_gill.losses import conditioning_loss

from ..arguments import EnglishArguments
from ..checkpoint_folder import SMOLLM2_ADAPTERS, find_checkpoint
from ..models import batches
from ..models.image_generator import plain_generator
from ..models.question_features import WORDS, QuestionAdapters, fit_features
from ..models.smollm2 import HUB_ID, WEIGHTS, library_of, load_language_model, random_language_model
from ..world.caption_grammar import describe, layout, parse_caption, shuffled
from ..world.drawing import to_images
from ..world.english import sentence_of, texts_without_request
from ..world.pairs import draw_all
from ..world.partial_scene import fully_known
from ..world.scene import Scene, is_retrievable
from ..world.splits import TRAIN, scene_in, stream
from .assemble_repository import halve_weights
from .english_states import QUESTIONS, StateReader, cached_states, rows_of
from .training_loop import Part, Schedule, run_parts

NUM_VISUAL_TOKENS = 13
_ASKING_TEXTS, _ANSWER_TOKENS, _MARGIN, _ASKING_STEPS = 240, 24, 3.0, 600
_CONTRAST = 0.3
# The share of a batch that has one object. Scenes of two are more, and learned later.
_ONE_SHARE = 0.3
_READ_PAIRS, _READ_RIDGE = 6_000, 1e-3
# The image encoder is part of the picture book's checkpoint, and joined by `load_smollm2_pipeline`.
EXAMPLES_FILE = "chat_examples.json"
VISION_MODEL = "gill-multimodal-picturebook"
RECORD = "record.json"
_SCHEDULE = Schedule(1_800, 64, 2e-3, warmup=60, decay=0.7)


@dataclass(frozen=True)
class EnglishSettings:
    """
    Attributes:
        one, two: Numbers of prompts with one and with two objects.
        schedule: Of the adapters.
        width, layers, ffn: Sizes of the mapper.
        pairs: Images that the visual projection is fitted to.
    """

    one: int = 1_536
    two: int = 3_072
    schedule: Schedule = _SCHEDULE
    width: int = 80
    layers: int = 3
    ffn: int = 240
    pairs: int = _READ_PAIRS


FAST = EnglishSettings(64, 64, Schedule(20, 16, 2e-3, warmup=5), 32, 1, 64, 200)


@dataclass(frozen=True)
class Prompt:
    """A request in English, the scene that it asks for, and the world's plain caption of it, objects in its order."""

    text: str
    scene: Scene
    caption: str


def train_english(arguments: EnglishArguments) -> Path:
    """
    Train adapters for SmolLM2, or with `random_weights` for a model of its shape that was never trained.

    Run again, it goes on where it was stopped.

    Returns:
        `Path`: The folder of the adapters.

    Raises:
        LanguageModelMissing: SmolLM2 is not there; the message says how to fetch it.
        FileNotFoundError: the picture book's checkpoint is not installed.

    Example:

        >>> from picturebook import EnglishArguments, train_english
        >>> train_english(EnglishArguments(out=Path("runs/english")))  # doctest: +SKIP
    """
    start = time.monotonic()
    model, tokenizer = load_language_model(arguments.language_model, torch.bfloat16)
    if arguments.random_weights:
        model = random_language_model(model, arguments.seed)
    base = GillPipeline.from_pretrained(find_checkpoint())
    settings = FAST if arguments.fast else EnglishSettings()
    out = Path(arguments.out)
    folder = train_adapters_on_states(base, model, tokenizer, settings, out, arguments.seed, arguments.random_weights)
    print(f"The adapters: {folder}, {(time.monotonic() - start) / 60:.1f} min of this call")
    if arguments.embed:
        with replace_folder(SMOLLM2_ADAPTERS, keep=("README.md", EXAMPLES_FILE)) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)
    return folder


def train_adapters_on_states(
    base: GillPipeline,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: EnglishSettings,
    out: Path,
    seed: int = 0,
    random_weights: bool = False,
) -> Path:
    """Compute states, train, and write `out/adapters`.

    Args:
        base: The picture book, whose other models are kept.
        language_model: Frozen, in the dtype to compute states in.
    """
    work, folder = out / "work", out / "adapters"
    if (folder / RECORD).is_file():
        print(f"{folder}: trained before")
        return folder
    work.mkdir(parents=True, exist_ok=True)
    seconds = time.monotonic()
    prompts = sample_english(settings.one, 1.0, seed) + sample_english(settings.two, 0.0, seed)
    # A model with random weights writes nothing, and is always asked.
    rows = rows_of(language_model, tokenizer) if random_weights else _image_rows(language_model, tokenizer, work, seed)
    reader = StateReader(language_model, tokenizer, rows)
    texts = [as_chat(prompt.text, tokenizer) for prompt in prompts]
    states = torch.from_numpy(cached_states(reader, texts, work / "states", "states"))
    seconds = time.monotonic() - seconds
    gill = build_gill(base, language_model, tokenizer, rows, settings, seed)
    known = [parse_caption(prompt.caption) for prompt in prompts]
    head = language_model.get_output_embeddings().weight.detach()
    first = [[tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in words] for words in WORDS]
    features = fit_features(states, [item for item in known if item is not None], [head[ids] for ids in first])
    adapters = QuestionAdapters(gill, features)
    data = _data(base, features(states), prompts, work)
    part = Part(settings.schedule, partial(loss_of_step, adapters, gill, data, settings.schedule.batch_size))
    trained = run_parts("english", adapters, [part], work / "adapters", seed)
    adapters.fold(gill, features)
    print("english: fits the decision and the visual projection", flush=True)
    fit_decision(gill, states, prompts)
    fit_visual_projection(base, gill, tokenizer, settings.pairs, seed)
    record = {
        "language_model": HUB_ID,
        "weights": "random, of the same shape" if random_weights else WEIGHTS,
        "questions": QUESTIONS,
        "prompts": {"one object": settings.one, "two objects": settings.two},
        "steps": settings.schedule.steps,
        "seed": seed,
        "minutes": {"states, of the last call": round(seconds / 60, 1), "adapters": round(trained / 60, 1)},
    }
    save_adapters(gill, folder, record)
    return folder


def sample_english(number: int, single_share: float, seed: int) -> list[Prompt]:
    """Requests of the train split in sentence forms and words that are trained on."""
    generator = stream(seed if single_share else seed + 3, TRAIN, "english")
    prompts = []
    for _ in range(number):
        scene = scene_in(TRAIN, generator, single_share)
        known = shuffled(fully_known(scene), generator)
        prompts.append(Prompt(sentence_of(known, generator), scene, describe(known)))
    return prompts


def as_chat(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A user's message in the language model's own chat template, where its answer begins."""
    return str(
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
    )


def _image_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, work: Path, seed: int) -> torch.Tensor:
    path = work / "rows.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    rows = rows_of(model, tokenizer)
    rows[0] += asking_step(model, tokenizer, rows, seed)
    with replace_file(path) as new:
        torch.save(rows, new)
    return rows


def asking_step(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: torch.Tensor, seed: int
) -> torch.Tensor:
    """
    What to add to the row of `[IMG0]`, whose logit is tied to it, so that it is written after requests and not else.

    A small step is found by logistic regression on frozen states: after requests, with the chat template and without,
    the logit is to be above all others, and below them after and in answers to other texts.

    Returns:
        `torch.FloatTensor` of shape `(hidden_size,)`.
    """
    generator = stream(seed, TRAIN, "asking")
    texts = [sentence_of(fully_known(scene_in(TRAIN, generator, 0.5)), generator) for _ in range(_ASKING_TEXTS)]
    requests = [as_chat(text, tokenizer) if number % 3 else text for number, text in enumerate(texts)]
    others = list(texts_without_request(TRAIN))
    others = [as_chat(text, tokenizer) for text in others] + others
    after = StateReader(model, tokenizer, rows).read(requests, len(rows) + 1)[:, 0]
    batch = tokenizer(others, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    begin = batch.input_ids.shape[1] - 1
    with torch.no_grad():
        written = model.generate(**batch, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
        mask = functional.pad(batch.attention_mask, (0, written.shape[1] - begin - 1), value=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        states = model.model(input_ids=written, attention_mask=mask, position_ids=positions).last_hidden_state
        inside = states[:, begin:].float().flatten(0, 1)
        head = model.get_output_embeddings()
        highest = [
            torch.cat([head(part.to(head.weight.dtype)).float().amax(1) for part in items.split(256)])
            for items in (after, inside)
        ]
    step = torch.zeros(rows.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([step], lr=3e-3)
    for _ in range(_ASKING_STEPS):
        row = rows[0] + step
        asks, answers = after @ row - highest[0], inside @ row - highest[1]
        loss = functional.softplus(_MARGIN - asks).mean() + 2 * functional.softplus(_MARGIN + answers).mean()
        optimizer.zero_grad()
        (loss + 0.3 * step.square().sum()).backward()
        optimizer.step()
    return step.detach()


def build_gill(
    base: GillPipeline,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: torch.Tensor,
    settings: EnglishSettings,
    seed: int,
) -> GillForConditionalGeneration:
    """New adapters between a language model and the picture book's image encoder, whose retrieval space is kept."""
    img_tokens = [f"[IMG{number}]" for number in range(len(rows))]
    GillProcessor.extend_tokenizer(tokenizer, img_tokens)
    old = base.model.config
    fields = {name: value for name, value in language_model.config.to_dict().items() if not name.startswith("_")}
    config = GillConfig(
        text_config=AutoConfig.for_model(**fields),
        vision_config=copy.deepcopy(old.vision_config),
        language_model_id=HUB_ID,
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


@dataclass(frozen=True)
class _Data:
    """
    Attributes:
        features: `(num_prompts, num_tokens, num_features)`.
        targets: The text encoder's states for the captions, float16 `(num_prompts, length, dim)`.
        images: Unit retrieval embeddings of an image of each scene.
        library: Those of the retrieval set.
        in_library: For each prompt the number of its image there, or -1.
        one: Whether there is one object.
    """

    features: torch.Tensor
    targets: torch.Tensor
    images: torch.Tensor
    library: torch.Tensor
    in_library: torch.Tensor
    one: torch.Tensor


@torch.no_grad()
def _data(base: GillPipeline, features: torch.Tensor, prompts: Sequence[Prompt], work: Path) -> _Data:
    generator: Any = plain_generator(base)
    targets = []
    for captions in batches([prompt.caption for prompt in prompts], 256):
        tokens = generator.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        targets.append(generator.text_encoder(input_ids=tokens).last_hidden_state.half())
    library, in_library = library_of(base)
    numbers = {scene: number for number, scene in enumerate(in_library)}
    scenes = [prompt.scene for prompt in prompts]
    return _Data(
        features,
        torch.cat(targets),
        functional.normalize(embed_images(base, draw_all(scenes, stream(0, TRAIN, "english images"))), dim=-1),
        library,
        torch.tensor([numbers.get(scene, -1) for scene in scenes]),
        torch.tensor([len(scene.objects) == 1 for scene in scenes]),
    )


@torch.no_grad()
def embed_images(base: GillPipeline, images: np.ndarray) -> torch.Tensor:
    """Retrieval embeddings of uint8 images by the picture book's model, `(num_images, retrieval_dim)`."""
    found = []
    for batch in batches(to_images(images), 256):
        values = base.processor.image_processor(images=batch, return_tensors="pt")["pixel_values"]
        found.append(base.model.get_image_retrieval_embeddings(values))
    return torch.cat(found)


def loss_of_step(
    adapters: QuestionAdapters,
    gill: GillForConditionalGeneration,
    data: _Data,
    batch_size: int,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """GILL's losses of a step: L2 distance to the target captions' conditioning, and contrast with other images.

    The images to contrast with are those of the batch and the retrieval set.
    """
    one = round(_ONE_SHARE * batch_size)
    parts = [(data.one.nonzero()[:, 0], one), ((~data.one).nonzero()[:, 0], batch_size - one)]
    chosen = torch.cat([part[torch.randint(len(part), (size,), generator=generator)] for part, size in parts])
    features = adapters.augment(data.features[chosen], data.one[chosen], generator)
    target = {"prompt_embeds": data.targets[chosen].float()}
    loss = conditioning_loss(adapters.map(features), target, gill.config.conditioning_tensors)
    texts = functional.normalize(adapters.retrieval_embeds(features), dim=-1)
    own, scale = data.images[chosen], gill.logit_scale.detach().exp()
    others = texts @ data.library.T
    numbers = data.in_library[chosen]
    rows = (numbers >= 0).nonzero()[:, 0]
    others = others.index_put((rows, numbers[rows]), torch.tensor(-torch.inf, dtype=others.dtype))
    logits = scale * torch.cat([(texts * own).sum(-1, keepdim=True), others], dim=1)
    contrast = functional.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long))
    return loss + _CONTRAST * contrast


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


@torch.no_grad()
def fit_visual_projection(
    base: GillPipeline,
    gill: GillForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    number: int,
    seed: int,
) -> None:
    """Fit the visual projection by least squares, so that visual tokens imitate the rows of words for an image.

    The words are the background and what is at each place, ` night left red house right nothing nothing ...`.
    """
    generator = stream(seed, TRAIN, "english pairs to read")
    scenes = [scene_in(TRAIN, generator, 0.2) for _ in range(number)]
    features, targets = [], []
    rows = gill.language_model.get_input_embeddings().weight
    images = draw_all(scenes, generator)
    for begin in range(0, number, 250):
        part = to_images(images[begin : begin + 250])
        values = base.processor.image_processor(images=part, return_tensors="pt")["pixel_values"]
        features.append(gill.get_image_features(values).pooler_output.double())
        words = [image_in_words(scene) for scene in scenes[begin : begin + 250]]
        ids = [[tokenizer(f" {word}", add_special_tokens=False).input_ids[0] for word in one] for one in words]
        targets.append(rows[torch.tensor(ids)].flatten(1).double())
    inputs, outputs = torch.cat(features), torch.cat(targets)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    ridge = _READ_RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    fitted = torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    gill.visual_projection.weight.copy_(fitted[:-1].T)
    gill.visual_projection.bias.copy_(fitted[-1])


def image_in_words(scene: Scene) -> list[str]:
    """The words that visual tokens imitate: the background, and for each place its name, a colour and a kind."""
    background, *words = layout(scene).split()
    named = []
    for number, place in enumerate(("left", "right", "top", "bottom")):
        named += [place, *words[2 * number : 2 * number + 2]]
    return [background, *named]


def save_adapters(gill: GillForConditionalGeneration, folder: Path, record: dict[str, Any]) -> None:
    """Write adapters and configuration, in half precision and without code; the record last."""
    with replace_folder(folder) as new:
        gill.save_pretrained(new)
        for path in new.glob("*.py"):
            path.unlink()
        halve_weights(new)
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
