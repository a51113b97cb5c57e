"""Converts an original release, by its system."""

import os
from typing import Any, Literal

import torch
from transformers.utils import logging

from . import fromage, gill
from .arguments import ConversionOptions
from .assemble import Choices, write_converted
from .dreamllm_assembly import write_converted_dreamllm


def convert(
    system: Literal["gill", "fromage", "dreamllm"],
    source: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    **options: Any,
) -> None:
    """Turn the files of an original GILL, FROMAGe or DreamLLM release into a Hub repository.

    Args:
        system (`str`): `"gill"`, `"fromage"` or `"dreamllm"`.
        source (`str` or `os.PathLike`): Folder with the authors' files.
        output_dir (`str` or `os.PathLike`): Folder to write, in one step: it is complete, or not there.
        options: The other fields of [`~conversion.ConversionOptions`].

    Raises:
        ConversionError: input that cannot be converted; the message says what it is and what was expected.
        VerificationError: `verify=True`, and the repository does not read back as the source.

    Example:

    ```python
    >>> from conversion import convert

    >>> convert("gill", "checkpoints/gill_opt", "my_gill", verify=True)  # doctest: +SKIP
    ```
    """
    run(ConversionOptions(system, source, output_dir, **options))  # type: ignore[arg-type]


def run(options: ConversionOptions) -> None:
    """The command `gill convert`."""
    verbosity = logging.get_verbosity()
    # transformers warns about settings of the authors' backbones, which a user cannot change.
    logging.set_verbosity_error()
    try:
        choices = Choices(
            language_model=options.language_model,
            vision_model=options.vision_model,
            image_generator=options.image_generator,
            language_model_revision=options.language_model_revision,
            vision_model_revision=options.vision_model_revision,
            image_generator_revision=options.image_generator_revision,
            added_rows_seed=options.added_rows_seed,
            comprehension_source=options.comprehension_source,
            image_folder=options.image_folder,
            dtype=getattr(torch, options.dtype),
            verify=options.verify,
            overwrite=options.overwrite,
        )
        if options.system == "dreamllm":
            write_converted_dreamllm(options.source, options.output_dir, choices)
            return
        if options.system == "gill":
            original = gill.read_original(options.source, options.retrieval_set, options.decision_head)
        else:
            original = fromage.read_original(options.source, options.retrieval_set)
        write_converted(original, options.output_dir, choices)
    finally:
        logging.set_verbosity(verbosity)


__all__ = ["convert", "run"]
