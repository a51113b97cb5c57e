"""Retrieve, then refine: the retrieved image as what the image generator starts from."""

from collections.abc import Sequence

import numpy as np
from diffusers import StableDiffusionImg2ImgPipeline

from pipeline_gill import GillImage, GillPipeline

from ..models.gill_answers import answer_prompts, judge
from ..models.image_generator import GUIDANCE_SCALE, INFERENCE_STEPS
from ..world.prompts import sample_prompts
from ..world.scene import is_retrievable
from ..world.splits import TEST, stream
from .results_table import Table, mean_of

# Of all steps the share that is drawn anew.
STRENGTHS = (0.5, 0.7, 0.9)
_COLUMNS = ("all prompts", "scene is in the retrieval set", "it is not")


def refining_pipeline(pipe: GillPipeline) -> GillPipeline:
    """The same models, with an image generator that starts from an image."""
    generator = StableDiffusionImg2ImgPipeline.from_pipe(pipe.image_generator)
    refining = GillPipeline(pipe.model, pipe.processor, generator, None, INFERENCE_STEPS, GUIDANCE_SCALE)
    refining.set_progress_bar_config(disable=True)
    refining.retrieval_set = pipe.retrieval_set
    return refining


def refined_table(pipe: GillPipeline, items: int, seed: int) -> Table:
    """Right images of prompts that are generated, retrieved, or retrieved and then refined."""
    asked = sample_prompts(TEST, items, stream(seed, TEST, "refined"))
    prompts, scenes = [prompt.prompt for prompt in asked], [prompt.scene for prompt in asked]
    in_set = np.array([is_retrievable(scene) for scene in scenes])

    def right(images: Sequence[list[GillImage]]) -> np.ndarray:
        return judge([of_prompt[0] if of_prompt else None for of_prompt in images], scenes)

    judged = {}
    for name, decision in (("generated", "generate"), ("retrieved", "retrieve")):
        judged[name] = right([images for _, images in answer_prompts(pipe, prompts, seed, decision=decision)])
    refining = refining_pipeline(pipe)
    for strength in STRENGTHS:
        answers = answer_prompts(
            refining,
            prompts,
            seed,
            decision="generate",
            reference_argument="image",
            image_generator_kwargs={"strength": strength},
        )
        judged[f"retrieved, then refined with strength {strength}"] = right([images for _, images in answers])
    parts = dict(zip(_COLUMNS, (in_set | True, in_set, ~in_set), strict=True))
    rows = {
        name: {column: mean_of(of[chosen]) for column, chosen in parts.items() if chosen.any()}
        for name, of in judged.items()
    }
    return Table(
        "refined",
        "Retrieve, then refine, % right",
        _COLUMNS,
        rows,
        f"{items} prompts of the test split (captions, stories, dialogues in turn). Refined: the image generator "
        "starts from the retrieved image with noise on it, of that share of all steps, and draws on from GILL's "
        "conditioning.",
    )
