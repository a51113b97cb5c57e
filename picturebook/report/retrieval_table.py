"""The last image of a story, retrieved from more or less of the story, as in the paper's Table 2."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from evaluation_gill.ranking import target_places
from pipeline_gill import GillPipeline
from pipeline_gill.answer_gill import ImageSlot

from ..models import batches
from ..models.clip import pooled_image_features, pooled_text_features
from ..stages.ablations import AblationRun, check_frozen, read_ablations
from ..world.pairs import illustrated_stories
from ..world.prompts import story_prompt
from ..world.scene import Scene
from ..world.splits import TEST
from .results_table import Estimate, Table, counted, mean_of

LAST, FIVE, FIVE_AND_IMAGES = "last caption", "five captions", "five captions and four images"
_RANKS = (1, 5, 10)
_MAX_NEW_TOKENS = 32
_SHORT = {"FROMAGe": "stories_fromage", "GILL": "stories_gill"}


def retrieval_table(pipe: GillPipeline, items: int, seed: int, run: AblationRun | None = None) -> Table:
    """
    Recall of the last image of stories among all images of them.

    Args:
        run ([`AblationRun`], *optional*): Where CLIP's projections and the equally short trainings of FROMAGe and GILL
            are; without it GILL's own rows alone.

    Raises:
        FileNotFoundError: `run` is not finished. ValueError: it is of another picture book.
    """
    told = illustrated_stories(TEST, items, seed)
    scenes = [scene for story, _ in told for scene in story.scenes]
    features = pooled_image_features(pipe, np.concatenate([images for _, images in told]))
    excluded = excluded_images(scenes, len(told[0][0].scenes))
    last = [len(told[0][0].scenes) * (number + 1) - 1 for number in range(items)]
    prompts = {
        LAST: [story_prompt(story, sentences=1) for story, _ in told],
        FIVE: [story_prompt(story) for story, _ in told],
        FIVE_AND_IMAGES: [story_prompt(story, images) for story, images in told],
    }

    def recalls(queries: torch.Tensor, candidates: torch.Tensor) -> dict[str, Estimate]:
        queries, candidates = (functional.normalize(part.float(), dim=-1) for part in (queries, candidates))
        places = target_places(queries, candidates, last, excluded)
        return {f"recall@{rank}": mean_of(np.array(places.recall_at(rank))) for rank in _RANKS}

    rows: dict[str, dict[str, Estimate]] = {}
    note = ""
    if run is not None:
        check_frozen(pipe.model, run)
        projections = load_file(run.clip_projections)
        images = features @ projections["image"]
        for context, texts in (
            (LAST, [f"{story.sentences[-1]} ." for story, _ in told]),
            (FIVE, [story.text for story, _ in told]),
        ):
            rows[f"CLIP, {context}"] = recalls(pooled_text_features(pipe, texts) @ projections["text"], images)
        for system, name in _SHORT.items():
            short = run.load(name)
            candidates = retrieval_candidates(short, features)
            for context, of_context in prompts.items():
                rows[f"{system}, short training, {context}"] = recalls(retrieval_queries(short, of_context), candidates)
        steps = read_ablations()["stories"].trainings[_SHORT["GILL"]]["max_steps"]
        note = (
            f" CLIP: both towers of the picture book's CLIP, with projections fitted anew. Short training: {steps} "
            "steps on the same pairs; FROMAGe has one token and trains retrieval alone."
        )
    candidates = retrieval_candidates(pipe, features)
    for context, of_context in prompts.items():
        rows[f"GILL, {context}"] = recalls(retrieval_queries(pipe, of_context), candidates)
    return Table(
        "retrieval",
        "The last image of a story, retrieved, %",
        [f"recall@{rank}" for rank in _RANKS],
        rows,
        f"{counted(items, 'story', 'stories')} of the test split. Candidates are the {len(scenes):,} images "
        "of all of them, but for the other images of the same story and of the same scene." + note,
    )


def excluded_images(scenes: Sequence[Scene], images_per_story: int) -> list[set[int]]:
    """For the last image of each story the images that are no candidates: the story's own, and those of the same scene.

    Args:
        scenes: Of all images, story by story.
    """
    same: dict[Scene, set[int]] = {}
    for number, scene in enumerate(scenes):
        same.setdefault(scene, set()).add(number)
    return [
        {*range(end - images_per_story + 1, end), *same[scenes[end]]} - {end}
        for end in range(images_per_story - 1, len(scenes), images_per_story)
    ]


@torch.no_grad()
def retrieval_candidates(pipe: GillPipeline, features: torch.Tensor) -> torch.Tensor:
    """Retrieval embeddings `(num_images, retrieval_dim)` of pooled image features."""
    found = pipe.model.get_image_retrieval_embeddings(image_features=features.to(pipe.device, pipe.model.dtype))
    return found.float().cpu()


@torch.no_grad()
def retrieval_queries(pipe: GillPipeline, prompts: Sequence[Any]) -> torch.Tensor:
    """Retrieval embeddings `(num_prompts, retrieval_dim)` of the first image that the model asks for after each prompt;
    zeros, as good as chance, where it asks for none."""
    found = torch.zeros(len(prompts), int(pipe.model.config.retrieval_dim or 0))
    row = 0
    for batch in batches(list(prompts)):
        answers, output = pipe.generate_text(
            pipe.processor(batch).to(pipe.device),
            force_image=False,
            max_images=1,
            truncate_text=True,
            num_return_sequences=1,
            max_new_tokens=_MAX_NEW_TOKENS,
        )
        for answer in answers:
            slots = [piece for piece in answer if isinstance(piece, ImageSlot)]
            if slots:
                found[row] = output.retrieval_embeds[slots[0].image].float().cpu()
            row += 1
    return found
