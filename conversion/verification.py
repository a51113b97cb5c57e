"""Reads a converted repository back and compares it with its source."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from modeling_gill import GillConfig, GillForConditionalGeneration, GillProcessor
from pipeline_gill.pipeline_repository_gill import RETRIEVAL_SET_FOLDER
from pipeline_gill.retrieval_set_gill import RetrievalSet


class VerificationError(ValueError):
    """A repository does not read back as its source."""

    # The conversion ran, and its result is negative.
    exit_code = 1


def verify_repository(
    folder: Path,
    source: Mapping[str, torch.Tensor],
    model: GillForConditionalGeneration,
    processor: GillProcessor,
    retrieval_set: RetrievalSet | None,
) -> int:
    """
    Compare weights, configuration, processor, generation settings and retrieval set on disk with their source.

    Args:
        folder (`Path`): The repository.
        source (`Mapping[str, torch.Tensor]`): Source tensors by parameter, in the stored dtype.
        model, processor, retrieval_set: The objects that were saved.

    Returns:
        `int`: Number of tensors that were compared.

    Raises:
        VerificationError: lists all differences.
    """
    problems = _differing_tensors(folder, source)
    config = GillConfig.from_pretrained(folder)
    problems += _differing("configuration", _settings(config), _settings(model.config))
    read = GillProcessor.from_pretrained(folder)
    problems += _differing("processor", _tokens(read), _tokens(processor))
    generation = GenerationConfig.from_pretrained(folder)
    problems += _differing(
        "generation settings", _lengths_and_ends(generation), _lengths_and_ends(model.generation_config)
    )
    if retrieval_set is not None:
        stored = RetrievalSet.load(folder / RETRIEVAL_SET_FOLDER)
        problems += _differing("retrieval set", _contents(stored), _contents(retrieval_set))
    if problems:
        raise VerificationError(f"The repository does not read back as its source: {'; '.join(problems)}")
    return len(source)


def _differing_tensors(folder: Path, source: Mapping[str, torch.Tensor]) -> list[str]:
    stored: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            stored |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    problems = [f"tensor {name} is missing" for name in source.keys() - stored.keys()]
    problems += [f"tensor {name} has no source" for name in stored.keys() - source.keys()]
    for name in sorted(source.keys() & stored.keys()):
        if stored[name].dtype != source[name].dtype or not torch.equal(stored[name], source[name]):
            problems.append(f"tensor {name} differs")
    return problems


def _settings(config: GillConfig) -> dict[str, Any]:
    volatile = ("transformers_version", "_name_or_path", "auto_map", "architectures", "dtype")
    return {name: value for name, value in config.to_dict().items() if name not in volatile}


def _tokens(processor: GillProcessor) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    written = tokenizer("".join(processor.img_tokens), add_special_tokens=False).input_ids
    return {
        "length": len(tokenizer),
        "image token": processor.image_token_id,
        "[IMG] tokens": processor.image_output_token_ids,
        "[IMG] tokens in a text": written,
        "pad token": tokenizer.pad_token_id,
        "padding side": tokenizer.padding_side,
        "visual tokens": processor.num_visual_tokens,
        "pixels": processor.image_processor.to_dict().get("crop_size"),
    }


def _lengths_and_ends(config: GenerationConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("eos_token_id", "pad_token_id", "max_new_tokens", "do_sample")}


def _contents(retrieval_set: RetrievalSet) -> dict[str, Any]:
    info = retrieval_set.info
    return {"images": len(retrieval_set), "width": info.retrieval_dim, "fingerprint": info.fingerprint}


def _differing(what: str, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    names = sorted({*stored, *expected})
    return [
        f"{what}: {name} is {stored.get(name)!r} instead of {expected.get(name)!r}"
        for name in names
        if stored.get(name) != expected.get(name)
    ]
