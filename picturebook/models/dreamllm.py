"""The DreamLLM between the picture book's models: it writes and draws in turn."""

import os
from pathlib import Path

import torch

from modeling_gill import GillForConditionalGeneration, GillProcessor
from pipeline_gill import GillPipeline

from ..checkpoint_folder import find_checkpoint, find_dreamllm
from .image_generator import GUIDANCE_SCALE, INFERENCE_STEPS


def load_dreamllm_pipeline(
    folder: str | os.PathLike[str] | None = None, base: GillPipeline | None = None
) -> GillPipeline:
    """
    The picture book's DreamLLM, with the image encoder and the image generator of its checkpoint.

    Args:
        folder: Of the DreamLLM, by default that of this package.
        base ([`GillPipeline`], *optional*): The picture book, by default its checkpoint. Its parts are shared.

    Raises:
        FileNotFoundError: the checkpoint or the DreamLLM is not there; the message says how to get it.

    Example:

    ```python
    >>> from picturebook import load_dreamllm_pipeline

    >>> pipe = load_dreamllm_pipeline()
    >>> out = pipe("a red house on the left at night . picture :", max_images=5)
    >>> [piece if isinstance(piece, str) else piece.image for piece in out.answers[0]]
    ```
    """
    folder = Path(folder or find_dreamllm())
    base = base or GillPipeline.from_pretrained(find_checkpoint())
    model = GillForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, vision_model=base.model.vision_model
    )
    pipe = GillPipeline(
        model,
        GillProcessor.from_pretrained(folder),
        base.image_generator,
        num_inference_steps=INFERENCE_STEPS,
        guidance_scale=GUIDANCE_SCALE,
        negative_conditioning="empty_prompt",
        read_back=True,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(base.device)
