"""Writes a repository from an original DreamLLM release and the public models that its frozen parts are."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from transformers import AutoConfig, AutoImageProcessor, GenerationConfig, PretrainedConfig

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from pipeline_gill.frozen_models import FrozenModel, FrozenModelError, full_path, load_part, load_vision_config
from pipeline_gill.generator_parts import load_ddpm_scheduler
from pipeline_gill.repository_writer_gill import write_repository_files

from . import dreamllm
from .adapter_tensors import IMG_ROWS, MappedTensors, ReportRow, TensorSource, format_report, map_tensors, round_to
from .assemble import Choices
from .dreamllm import DreamSettings
from .dreamllm_files import DIFFUSION, QUERIES, VISION, ReleaseWeights, read_weights
from .dreamllm_halves import join_weights
from .original_files import Checkpoint, ConversionError
from .output_folder import output_folder
from .public_models import (
    compare_generator_part,
    compare_language_model,
    compare_vision_model,
    load_generator_config,
)
from .verification import verify_repository

INSIDE = "inside"
# Of the authors' evaluation on MS-COCO; their demo guides by 3.5.
NUM_INFERENCE_STEPS, GUIDANCE_SCALE = 150, 2.0
# The shorter of the two limits of the authors' evaluations.
_MAX_NEW_TOKENS = 128
_RENAMES = {
    f"{QUERIES}.dream_queries": IMG_ROWS,
    f"{VISION}.projector.projector": "visual_projection",
    f"{VISION}.post_layernorm": "visual_norm",
    f"{VISION}.clip_vision_model": "vision_model",
    f"{DIFFUSION}.projector.projector": "mapper.output_projection",
    "model": "language_model.model",
    "lm_head": "language_model.lm_head",
    "added_embeddings": "added_embeddings",
    "added_head": "added_head",
}
_ROWS = {"model.embed_tokens.weight": "added_embeddings.weight", "lm_head.weight": "added_head.weight"}


@dataclass
class _Parts:
    """What becomes of the frozen models: tensors and components to write, and reasons for those that are not."""

    tensors: dict[str, torch.Tensor]
    left_out: dict[str, str] = field(default_factory=dict)
    rows: list[ReportRow] = field(default_factory=list)
    components: dict[str, Any] = field(default_factory=dict)
    holds_vision_model: bool = False
    notes: list[str] = field(default_factory=list)


def write_converted_dreamllm(source: Path, out: Path, choices: Choices, report: Callable[[str], None] = print) -> None:
    """
    Write the repository of a DreamLLM release in one step: it is complete, or not there.

    Args:
        source (`Path`): Folder with the authors' files.
        out (`Path`): Folder to write.
        choices ([`Choices`]): The user's options. `language_model` is `"inside"` or `None` for the release's own, which
            is written into the repository, or names a plain one that stage I has left as it was.
        report (`Callable[[str], None]`, defaults to `print`): Called with each part of the report.

    Raises:
        ConversionError: input that cannot be converted; the message says what it is and what was expected.
        VerificationError: `choices.verify` is set and the repository does not read back as the source.
    """
    reading = choices.comprehension_source
    settings = dreamllm.read_settings(source, reading)
    named = (choices.language_model, choices.vision_model, choices.image_generator)
    inputs = [
        source,
        *filter(None, [reading]),
        *(Path(name) for name in named if name is not None and Path(name).is_dir()),
    ]
    with output_folder(out, choices.overwrite, inputs) as folder:
        weights = read_weights(source)
        if reading is not None:
            weights = join_weights(weights, read_weights(reading), source, reading, settings.added_tokens)
        try:
            model, processor, mapped, parts, scheduler = _assemble(source, settings, weights, choices)
        except FrozenModelError as error:
            raise ConversionError(str(error)) from error
        report(format_report(mapped.report))
        for note in parts.notes:
            report(f"note: {note}")
        write_repository_files(
            folder,
            model,
            processor,
            place=out,
            # The generator's own text encoder has no part in DreamLLM.
            generator={"text_encoder": None, "tokenizer": None, "scheduler": scheduler, **parts.components},
            pipeline_config={
                "num_inference_steps": NUM_INFERENCE_STEPS,
                "guidance_scale": GUIDANCE_SCALE,
                "negative_conditioning": "empty_prompt",
            },
        )
        if choices.verify:
            compared = verify_repository(folder, round_to(mapped.tensors, choices.dtype), model, processor, None)
            report(f"verified: {compared} tensors read back equal to their source in {choices.dtype}")
    report(f"wrote {out}")


def _assemble(
    source: Path, settings: DreamSettings, weights: ReleaseWeights, choices: Choices
) -> tuple[GillForConditionalGeneration, GillProcessor, MappedTensors, _Parts, DDPMScheduler]:
    vision = _frozen("image encoder", choices.vision_model, settings.vision_model_id, "vision_model", choices)
    generator = _frozen(
        "image generator", choices.image_generator, settings.image_generator_id, "image_generator", choices
    )
    vision_config = load_vision_config(vision)
    inside = choices.language_model in (None, INSIDE)
    tensors = dict(weights.language_model)
    parts = _Parts(tensors)
    fields: dict[str, Any] = {"text_config": settings.text_config}
    if inside:
        if not tensors:
            raise ConversionError(
                f"{source} holds no language model, only what was trained beside it; --language-model names the plain "
                "one that it was trained for"
            )
    else:
        fields = _plain_language_model(source, settings, choices, parts)
    # The queries are rows of a table of their own, with ids above those of the language model.
    rows = max(settings.text_config.vocab_size, fields["text_config"].get_text_config().vocab_size)
    query_ids = list(range(rows, rows + settings.num_queries))
    _place_vision_model(weights.plugins[VISION], vision, vision_config, inside, parts)
    if not parts.holds_vision_model:
        fields |= {"vision_model_id": vision.name, "vision_model_revision": vision.revision}
    _place_generator(weights.plugins[DIFFUSION], generator, parts)
    scheduler, replaced = load_ddpm_scheduler(generator)
    for name, value in replaced.items():
        parts.notes.append(
            f"the scheduler of the {generator} has {name} {scheduler.config[name]!r}, which diffusers' pipeline "
            f"replaces by {value!r}; the authors' code does not"
        )
    width = load_generator_config("unet", generator).get("cross_attention_dim")
    ids = settings.token_ids
    try:
        config = GillConfig(
            **fields,
            vision_config=vision_config,
            image_generator_id=generator.name,
            image_generator_revision=generator.revision,
            vocab_size=query_ids[-1] + 1,
            image_token_id=ids[dreamllm.PATCH],
            image_output_token_ids=query_ids,
            image_start_token_id=ids[dreamllm.IMAGE_START],
            image_end_token_id=ids[dreamllm.IMAGE_END],
            image_output_start_token_id=ids[dreamllm.OUTPUT_START],
            image_output_end_token_id=ids[dreamllm.OUTPUT_END],
            predict_image_output_tokens=False,
            num_visual_tokens=None,
            vision_pooling="patches",
            vision_feature_layer=settings.vision_feature_layer,
            visual_projection_depth=settings.visual_projection_depth,
            visual_projection_norm=settings.visual_projection_norm,
            retrieval_dim=None,
            use_decision_head=False,
            mapper_type="projection",
            conditioning_length=settings.num_queries,
            conditioning_dim=width,
        )
    except ValueError as error:
        raise ConversionError(f"{source}: {error}") from error
    processor = GillProcessor(
        load_part(AutoImageProcessor, vision, "image processor"),
        dreamllm.read_tokenizer(source, settings, query_ids),
        config.num_visual_tokens,
        settings.query_tokens,
        image_token=dreamllm.PATCH,
        chat_template=dreamllm.CHAT_TEMPLATE,
        truncate_text=False,
        image_start_token=dreamllm.IMAGE_START,
        image_end_token=dreamllm.IMAGE_END,
        image_output_start_token=dreamllm.OUTPUT_START,
        image_output_end_token=dreamllm.OUTPUT_END,
    )
    with torch.device("meta"):
        deferred = {} if config.is_self_contained else {"defer_vision_model": True}
        model = GillForConditionalGeneration(config, **(deferred if inside else {"defer_backbones": True}))
    mapped = _map(source, settings, weights, parts, model)
    model.load_state_dict(round_to(mapped.tensors, choices.dtype), assign=True)
    model.generation_config = _generation_config(settings)
    return model.eval(), processor, mapped, parts, scheduler


def _frozen(role: str, chosen: str | None, own: str, option: str, choices: Choices) -> FrozenModel:
    flag = f"--{option.replace('_', '-')}"
    if chosen is None and (own.startswith((".", "/", "~")) or own.count("/") > 1 or "\\" in own):
        raise ConversionError(
            f"The release names its {role} by a path of the machine that trained it, {own!r:.100}; {flag} names it"
        )
    return FrozenModel(role, full_path(chosen or own), flag, getattr(choices, f"{option}_revision"))


def _plain_language_model(source: Path, settings: DreamSettings, choices: Choices, parts: _Parts) -> dict[str, Any]:
    """Check that the release has left a plain language model as it was, and keep the rows of the tokens added to it.

    Returns:
        `dict[str, Any]`: Its fields of the configuration.
    """
    name = full_path(str(choices.language_model))
    language = FrozenModel("language model", name, "--language-model", choices.language_model_revision)
    config: PretrainedConfig = load_part(AutoConfig, language, "configuration")
    text, width = config.get_text_config(), settings.text_config.hidden_size
    ids = list(settings.added_tokens.values())
    added = [i for i in ids if i >= text.vocab_size]
    if text.hidden_size != width or text.vocab_size < ids[0]:
        raise ConversionError(
            f"{source} was trained with a language model of at least {ids[0]} rows of {width}, but the {language} has "
            f"{text.vocab_size} of {text.hidden_size}; --language-model names another"
        )
    tensors = parts.tensors
    if tensors:
        found, differing = compare_language_model(tensors, language, added)
        if differing:
            raise ConversionError(
                f"The language model of {source} differs from {language.name!r} in {len(differing)} tensors, such as "
                f"{differing[0]}: it was trained as well. --language-model {INSIDE} writes it into the repository"
            )
        for tensor in tensors:
            equal = "rows but the added ones are equal" if added and tensor in _ROWS else "equal"
            parts.left_out[tensor] = f"{equal} to that of {language.name!r}, which is loaded from there"
    else:
        found = _drawn_rows(source, settings, len(added), choices, parts)
    tensors |= {_ROWS[tensor]: values for tensor, values in found.items() if added}
    return {
        "text_config": config,
        "language_model_id": language.name,
        "language_model_revision": language.revision,
        "added_token_ids": added or None,
    }


def _drawn_rows(
    source: Path, settings: DreamSettings, count: int, choices: Choices, parts: _Parts
) -> dict[str, torch.Tensor]:
    """Rows for the added tokens of a release that did not save them, drawn as the authors' code draws them."""
    if not count:
        return {}
    if choices.added_rows_seed is None:
        raise ConversionError(
            f"{source} lacks the rows of the {count} added tokens, which stage I of the authors' code does not save. "
            "Give a language model with rows for them, or draw new ones with --added-rows-seed"
        )
    parts.notes.append(
        f"the rows of the {count} added tokens are new random numbers (seed {choices.added_rows_seed}), not those that "
        "the release was trained with"
    )
    random = torch.Generator().manual_seed(choices.added_rows_seed)
    shape, std = (count, settings.text_config.hidden_size), settings.text_config.initializer_range
    return {name: torch.randn(shape, generator=random) * std for name in _ROWS}


def _place_vision_model(
    tensors: dict[str, torch.Tensor], vision: FrozenModel, config: PretrainedConfig, inside: bool, parts: _Parts
) -> None:
    prefix = "clip_vision_model"
    own = _take(tensors, prefix)
    compared = compare_vision_model(own, vision, config)
    if not compared.differing:
        parts.rows.append(_row(f"{VISION}.{prefix}", own, vision))
        return
    differs = _differs(vision, compared.differing)
    if not inside:
        raise ConversionError(f"{differs}; --vision-model names another")
    parts.notes.append(f"{differs}; it is written into the repository")
    parts.holds_vision_model = True
    tensors |= {f"{prefix}.{name}": tensor for name, tensor in compared.tensors.items()}


def _place_generator(tensors: dict[str, torch.Tensor], generator: FrozenModel, parts: _Parts) -> None:
    for name in ("vae", "unet"):
        own = _take(tensors, name)
        compared = compare_generator_part(name, own, generator)
        parts.rows.append(_row(f"{DIFFUSION}.{name}", own, generator, compared.differing and f"in the folder {name}"))
        if compared.differing:
            compared.public.load_state_dict(own)
            parts.components[name] = compared.public
            parts.notes.append(f"{_differs(generator, compared.differing)}; its {name} is written into the repository")


def _take(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Remove the tensors below a name, and return them by their names below it."""
    names = [name for name in tensors if name.startswith(f"{prefix}.")]
    return {name.removeprefix(f"{prefix}."): tensors.pop(name) for name in names}


def _row(name: str, own: dict[str, torch.Tensor], model: FrozenModel, place: str | list[str] = "") -> ReportRow:
    """One line for all tensors of a frozen model, which may be more than a thousand."""
    if not own:
        return ReportRow(name, None, None, f"not in the release; loaded from {model.name!r}")
    where = f"written {place}" if place else f"equal to {model.name!r}, which is loaded from there"
    return ReportRow(f"{name} ({len(own)} tensors)", None, None, where)


def _differs(model: FrozenModel, names: list[str]) -> str:
    return f"the release's weights differ from those of the {model} in {len(names)} tensors, such as {names[0]}"


def _map(
    source: Path,
    settings: DreamSettings,
    weights: ReleaseWeights,
    parts: _Parts,
    model: GillForConditionalGeneration,
) -> MappedTensors:
    tensors = dict(parts.tensors)
    for plugin, own in weights.plugins.items():
        tensors |= {f"{plugin}.{name}": tensor for name, tensor in own.items()}
    queries = tensors.get(f"{QUERIES}.dream_queries")
    if queries is not None and queries.dim() == 3 and len(queries) == 1:
        tensors[f"{QUERIES}.dream_queries"] = queries[0]
    checkpoint = Checkpoint(source, tensors, weights.left_out)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    mapped = map_tensors(
        [TensorSource(checkpoint, _RENAMES, parts.left_out)], expected, model.config.image_output_token_ids
    )
    left_out = [ReportRow(f"config.json: {name}", None, None, why) for name, why in settings.left_out.items()]
    return MappedTensors(mapped.tensors, [*mapped.report, *parts.rows, *left_out])


def _generation_config(settings: DreamSettings) -> GenerationConfig:
    ids = settings.token_ids
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids[dreamllm.PAD],
        suppress_tokens=sorted(ids[token] for token in dreamllm.NEVER_WRITTEN if token in ids),
    )


__all__ = ["INSIDE", "write_converted_dreamllm"]
