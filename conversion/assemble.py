"""Makes a GILL repository out of an original checkpoint and the descriptions of its frozen models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from pipeline_gill.repository_writer_gill import write_repository_files
from pipeline_gill.retrieval_set_gill import RetrievalSet

from .adapter_tensors import IMG_ROWS, PlacedTensors, format_report, place_tensors, round_to
from .backbones import (
    Backbone,
    conditioning_shape,
    load_image_processor,
    load_text_config,
    load_tokenizer,
    load_vision_config,
    load_vision_model,
    locate,
)
from .original_files import ConversionError
from .original_release import Original
from .output_folder import output_folder
from .retrieval_pickles import read_retrieval_pickles
from .verification import verify_repository

# The authors' default length of an answer.
_MAX_NEW_TOKENS = 32
# The authors squeeze generated images to so many pixels before they score them.
_RANKING_SIZE = 224
_PATHS_LOOKED_UP = 100


@dataclass(frozen=True)
class Choices:
    """What a user may set; `None` where the release's own settings hold."""

    language_model: str | None = None
    vision_model: str | None = None
    image_generator: str | None = None
    image_folder: Path = Path()
    dtype: torch.dtype = torch.bfloat16
    verify: bool = False
    overwrite: bool = False


def write_converted(original: Original, out: Path, choices: Choices, say: Callable[[str], None] = print) -> None:
    """Writes the repository of `original` to `out`, complete or not at all.

    Args:
        original: what to convert.
        out: folder to write.
        choices: the user's.
        say: takes the report, piece by piece.

    Raises:
        ConversionError: input that cannot be converted; the message says what it is and what was expected.
        VerificationError: `choices.verify` is set and what was written does not read back as the source.
    """
    inputs = list(original.inputs)
    with output_folder(out, choices.overwrite, _folders(inputs, choices)) as folder:
        model, processor, placed, vision = _assemble(original, choices)
        say(format_report(placed.report))
        retrieval_set = _retrieval_set(original, model, vision, choices.image_folder, say)
        _write(folder, out, model, processor, retrieval_set)
        if choices.verify:
            compared = verify_repository(
                folder, round_to(placed.tensors, choices.dtype), model, processor, retrieval_set
            )
            say(f"verified: {compared} tensors read back equal to their source in {choices.dtype}")
    say(f"wrote {out}")


def _assemble(
    original: Original, choices: Choices
) -> tuple[GillForConditionalGeneration, GillProcessor, PlacedTensors, Backbone]:
    fields = dict(original.config_fields)
    language = locate("language model", choices.language_model or fields["language_model_id"], "--language-model")
    vision = locate("image encoder", choices.vision_model or fields["vision_model_id"], "--vision-model")
    fields |= {"language_model_id": language.name, "vision_model_id": vision.name}
    if fields["mapper_type"] is not None:
        generator_id = choices.image_generator or fields["image_generator_id"]
        generator = locate("image generator", generator_id, "--image-generator")
        fields["image_generator_id"] = generator.name
        fields["conditioning_length"] = _conditioning_length(fields, generator)
    tokenizer = load_tokenizer(language, original.img_tokens, fields["image_output_token_ids"])
    text_config, vision_config = load_text_config(language), load_vision_config(vision)
    try:
        # An embedding padded to a round number has rows that no token stands for; the authors cut them off.
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
        load_image_processor(vision),
        tokenizer,
        config.num_visual_tokens,
        original.img_tokens,
        split_image_tokens=original.split_image_tokens,
    )

    with torch.device("meta"):
        model = GillForConditionalGeneration(config, defer_backbones=True)
    hints = {
        IMG_ROWS: f"the {language} embeds {config.embedding_dim} wide; {language.flag} names another",
        "image_retrieval_head.weight": f"the {vision} is {config.vision_dim} wide; {vision.flag} names another",
    }
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    placed = place_tensors(original.sources, expected, config.image_output_token_ids, hints)
    model.load_state_dict(round_to(placed.tensors, choices.dtype), assign=True)
    model.generation_config = _generation_config(text_config, tokenizer)
    return model.eval(), processor, placed, vision


def _conditioning_length(fields: dict[str, Any], generator: Backbone) -> int:
    length, width = conditioning_shape(generator)
    said_length, said_width = fields["conditioning_length"], fields["conditioning_dim"]
    # The authors' code fills up with zeros what a linear mapper leaves open.
    fits = said_length <= length if fields["mapper_type"] == "linear" else said_length == length
    if not fits or said_width != width:
        raise ConversionError(
            f"model_args.json makes a conditioning of {said_length} x {said_width}, but the {generator} reads "
            f"{length} x {width}; {generator.flag} names another"
        )
    return length


def _generation_config(text_config: PretrainedConfig, tokenizer: Any) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        bos_token_id=text_config.get_text_config().bos_token_id,
        # The authors' loop has no stop: it writes on after the end-of-sequence token, and cuts at a newline.
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )


def _retrieval_set(
    original: Original,
    model: GillForConditionalGeneration,
    vision: Backbone,
    image_folder: Path,
    say: Callable[[str], None],
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
    # A retrieval set is tied to the weights that embedded it, the image encoder's among them.
    try:
        model.vision_model = load_vision_model(vision, model.config.vision_config)
    except ConversionError as error:
        say(
            f"left out: the {len(read.paths)} retrieval embeddings of {files}, which are bound to the image encoder's "
            f"weights: {error}. Convert again where these can be loaded."
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
    say(f"retrieval set: {len(read.paths)} images from {files}")
    local = [path for path in read.paths[:_PATHS_LOOKED_UP] if "://" not in path]
    missing = [path for path in local if not (image_folder / path).is_file()]
    if missing:
        say(
            f"note: of the first {len(local)} images in files, {len(missing)} are not below "
            f"{image_folder.absolute()}, {missing[0]!r} for one; --image-folder names another folder"
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
