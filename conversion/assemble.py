"""Writes a GILL repository from an original checkpoint and the configurations of its frozen models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from pipeline_gill.frozen_models import (
    FrozenModel,
    FrozenModelError,
    full_path,
    generation_config,
    load_part,
    load_vision_config,
    load_vision_model,
)
from pipeline_gill.generator_configs import conditioning_of_configs
from pipeline_gill.repository_writer_gill import write_repository_files
from pipeline_gill.retrieval_set_gill import RetrievalSet

from .adapter_tensors import IMG_ROWS, MappedTensors, format_report, map_tensors, round_to
from .original_files import ConversionError
from .original_release import Original
from .output_folder import output_folder
from .retrieval_pickles import read_retrieval_pickles
from .verification import verify_repository

# The authors resize generated images to this many pixels before they score them.
_RANKING_SIZE = 224
_PATHS_LOOKED_UP = 100


@dataclass(frozen=True)
class Choices:
    """Options of a conversion; `None` stands for the settings of the release."""

    language_model: str | None = None
    vision_model: str | None = None
    image_generator: str | None = None
    language_model_revision: str | None = None
    vision_model_revision: str | None = None
    image_generator_revision: str | None = None
    added_rows_seed: int | None = None
    comprehension_source: Path | None = None
    image_folder: Path = Path()
    dtype: torch.dtype = torch.bfloat16
    verify: bool = False
    overwrite: bool = False


def write_converted(original: Original, out: Path, choices: Choices, report: Callable[[str], None] = print) -> None:
    """
    Write the repository of an original release in one step: it is complete, or not there.

    Args:
        original (`Original`): The release.
        out (`Path`): Folder to write.
        choices (`Choices`): The user's options.
        report (`Callable[[str], None]`, defaults to `print`): Called with each part of the report.

    Raises:
        ConversionError: input that cannot be converted; the message says what it is and what was expected.
        VerificationError: `choices.verify` is set and the repository does not read back as the source.
    """
    inputs = list(original.inputs)
    with output_folder(out, choices.overwrite, _folders(inputs, choices)) as folder:
        try:
            model, processor, mapped, vision = _assemble(original, choices)
        except FrozenModelError as error:
            raise ConversionError(str(error)) from error
        report(format_report(mapped.report))
        retrieval_set = _retrieval_set(original, model, vision, choices.image_folder, report)
        _write(folder, out, model, processor, retrieval_set)
        if choices.verify:
            compared = verify_repository(
                folder, round_to(mapped.tensors, choices.dtype), model, processor, retrieval_set
            )
            report(f"verified: {compared} tensors read back equal to their source in {choices.dtype}")
    report(f"wrote {out}")


def _assemble(
    original: Original, choices: Choices
) -> tuple[GillForConditionalGeneration, GillProcessor, MappedTensors, FrozenModel]:
    fields = dict(original.config_fields)
    language_model = full_path(choices.language_model or fields["language_model_id"])
    language = FrozenModel("language model", language_model, "--language-model", choices.language_model_revision)
    vision_model = full_path(choices.vision_model or fields["vision_model_id"])
    vision = FrozenModel("image encoder", vision_model, "--vision-model", choices.vision_model_revision)
    fields |= {
        "language_model_id": language.name,
        "language_model_revision": language.revision,
        "vision_model_id": vision.name,
        "vision_model_revision": vision.revision,
    }
    if fields["mapper_type"] is not None:
        generator_id = full_path(choices.image_generator or fields["image_generator_id"])
        generator = FrozenModel("image generator", generator_id, "--image-generator", choices.image_generator_revision)
        fields |= {"image_generator_id": generator.name, "image_generator_revision": generator.revision}
        fields["conditioning_length"] = _conditioning_length(fields, generator)
    tokenizer = _load_tokenizer(language, original.img_tokens, fields["image_output_token_ids"])
    text_config, vision_config = load_part(AutoConfig, language, "configuration"), load_vision_config(vision)
    try:
        # An embedding that is padded to a round number has rows without a token, which the authors cut off.
        config = GillConfig(
            text_config=text_config,
            vision_config=vision_config,
            vocab_size=len(tokenizer),
            image_token_id=tokenizer.cls_token_id,
            **fields,
        )
    except ValueError as error:
        raise ConversionError(f"{original.inputs[0]}: {error}") from error
    processor = GillProcessor(
        load_part(AutoImageProcessor, vision, "image processor"),
        tokenizer,
        config.num_visual_tokens,
        original.img_tokens,
        split_image_tokens=original.split_image_tokens,
    )

    with torch.device("meta"):
        model = GillForConditionalGeneration(config, defer_backbones=True)
    hints = {
        IMG_ROWS: f"the {language} embeds {config.embedding_dim} wide; {language.option} names another",
        "image_retrieval_head.weight": f"the {vision} is {config.vision_dim} wide; {vision.option} names another",
    }
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    mapped = map_tensors(original.sources, expected, config.image_output_token_ids, hints)
    model.load_state_dict(round_to(mapped.tensors, choices.dtype), assign=True)
    model.generation_config = generation_config(language, text_config, tokenizer)
    return model.eval(), processor, mapped, vision


def _conditioning_length(fields: dict[str, Any], generator: FrozenModel) -> int:
    tensors = conditioning_of_configs(generator)
    length, width = tensors[0].num_positions, tensors[0].dim
    own_length, own_width = fields["conditioning_length"], fields["conditioning_dim"]
    # The authors' code pads the output of a linear mapper with zeros.
    fits = own_length <= length if fields["mapper_type"] == "linear" else own_length == length
    if not fits or own_width != width or not (len(tensors) == 1 and tensors[0].is_plain):
        raise ConversionError(
            f"model_args.json has a conditioning of {own_length} x {own_width}, but the {generator} reads "
            f"{length} x {width}; {generator.option} names another"
        )
    return length


def _load_tokenizer(language: FrozenModel, img_tokens: Sequence[str], image_output_token_ids: Sequence[int]) -> Any:
    """The language model's tokenizer with `<|image|>` and `img_tokens` added in the authors' order.

    Raises:
        FrozenModelError: there is none. ConversionError: the new tokens get other ids; prints both.
    """
    # Given while loading, because `save_pretrained` writes no side that was set afterwards.
    tokenizer = load_part(AutoTokenizer, language, "tokenizer", padding_side="left")
    length = len(tokenizer)
    GillProcessor.extend_tokenizer(tokenizer, list(img_tokens))
    ids = tokenizer.convert_tokens_to_ids(list(img_tokens))
    if ids != list(image_output_token_ids):
        raise ConversionError(
            f"model_args.json gives {', '.join(img_tokens)} the ids {list(image_output_token_ids)}, but in the "
            f"tokenizer of the {language}, which knows {length} tokens, they get {ids}; {language.option} names another"
        )
    return tokenizer


def _retrieval_set(
    original: Original,
    model: GillForConditionalGeneration,
    vision: FrozenModel,
    image_folder: Path,
    report: Callable[[str], None],
) -> RetrievalSet | None:
    if not original.retrieval_pickles:
        return None
    read = read_retrieval_pickles(original.retrieval_pickles)
    files = ", ".join(path.name for path in read.files)
    if read.embeddings.shape[1] != model.config.retrieval_dim:
        raise ConversionError(
            f"{files}: embeddings are {read.embeddings.shape[1]} wide, but the model retrieves in "
            f"{model.config.retrieval_dim} dimensions"
        )
    # The fingerprint of a retrieval set includes the weights of the image encoder.
    try:
        model.vision_model = load_vision_model(vision, model.config.vision_config)
    except FrozenModelError as error:
        report(
            f"left out: the {len(read.paths)} retrieval embeddings of {files}, which need the weights of the image "
            f"encoder: {error}. Convert again where these can be loaded."
        )
        return None
    fingerprint = model.retrieval_fingerprint()
    model.vision_model = None
    try:
        retrieval_set = RetrievalSet.from_embeddings(
            read.paths, read.embeddings, fingerprint, base_dir=image_folder, source=f"the original release's {files}"
        )
    except ValueError as error:
        raise ConversionError(f"{files}: {error}") from error
    report(f"retrieval set: {len(read.paths)} images from {files}")
    local = [path for path in read.paths[:_PATHS_LOOKED_UP] if "://" not in path]
    missing = [path for path in local if not (image_folder / path).is_file()]
    if missing:
        report(
            f"note: of the first {len(local)} images in files, {len(missing)} are not in "
            f"{image_folder.absolute()}, such as {missing[0]!r}; --image-folder names another folder"
        )
    return retrieval_set


def _write(
    folder: Path,
    out: Path,
    model: GillForConditionalGeneration,
    processor: GillProcessor,
    retrieval_set: RetrievalSet | None,
) -> None:
    write_repository_files(
        folder,
        model,
        processor,
        place=out,
        retrieval_set=retrieval_set,
        pipeline_config={"ranking_size": _RANKING_SIZE},
    )


def _folders(inputs: Sequence[Path], choices: Choices) -> list[Path]:
    named = (choices.language_model, choices.vision_model, choices.image_generator)
    return [*inputs, *(Path(name) for name in named if name is not None and Path(name).is_dir())]
