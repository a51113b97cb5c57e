"""Retrieve the right image among all candidates for every prompt: the part that all retrieving tasks share."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from .ranking import target_places
from .results import RESULTS_FILE, LeftOut, Results, mean_metric
from .systems import Prompt, RetrievalSystem

_Item = TypeVar("_Item")
KS = (1, 5, 10)


@dataclass(frozen=True)
class Query:
    """A prompt, the image to retrieve, and candidates that are excluded for this prompt."""

    prompt: Prompt
    target: Path
    excluded: Collection[Path] = ()


def retrieve_and_measure(
    task: str,
    system: RetrievalSystem,
    queries: Sequence[Query],
    candidates: Sequence[Path],
    protocol: dict[str, Any],
    *,
    folder: Path,
    batch_size: int,
    left_out: Sequence[LeftOut] = (),
) -> Results:
    """Embed candidates and prompts, rank, and write `results.json`.

    Args:
        task (`str`), protocol (`dict`): As in [`Results`]; numbers of queries and candidates are added.
        candidates (`Sequence[Path]`): All images that may be retrieved, the targets among them.
        folder (`Path`): Where the results are written.
        batch_size (`int`): Prompts, or images, embedded at once.
    """
    numbers = {path: number for number, path in enumerate(candidates)}
    images = _embed_in_batches(system.embed_images, list(numbers), batch_size, "candidates")
    prompts = _embed_in_batches(system.embed_prompts, [query.prompt for query in queries], batch_size, "prompts")
    excluded = [{numbers[path] for path in query.excluded if path in numbers} for query in queries]
    targets = [numbers[query.target] for query in queries]
    places = target_places(prompts, images, targets, excluded if any(excluded) else None)
    scores = {**{f"recall@{k}": places.recall_at(k) for k in KS}, "mrr": places.reciprocal_ranks()}
    metrics = [mean_metric(name, values) for name, values in scores.items()]
    protocol = {**protocol, "examples": len(queries), "candidates": len(numbers), "ties": "mean over all orders"}
    results = Results(task, system.describe(), protocol, metrics, list(left_out))
    results.write(folder / RESULTS_FILE)
    return results


def _embed_in_batches(
    embed: Callable[[Sequence[_Item]], torch.Tensor], items: Sequence[_Item], batch_size: int, what: str
) -> torch.Tensor:
    begins = tqdm(range(0, len(items), batch_size), desc=what, unit="batch", disable=None, leave=False)
    return torch.cat([embed(items[begin : begin + batch_size]) for begin in begins])


__all__ = ["KS", "Query", "retrieve_and_measure"]
