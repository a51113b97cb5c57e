"""Find the right image among all candidates for every prompt: what all retrieving tasks share."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from .bootstrap import interval_of_mean
from .ranking import target_places
from .results import RESULTS_FILE, Figure, LeftOut, Results
from .systems import Prompt, Retriever

_Item = TypeVar("_Item")
KS = (1, 5, 10)


@dataclass(frozen=True)
class Query:
    """A prompt, the name of the image that it wants, and the names of candidates that do not count for it."""

    name: str
    prompt: Prompt
    target: str
    excluded: Collection[str] = ()


def retrieve_and_measure(
    task: str,
    system: Retriever,
    queries: Sequence[Query],
    candidates: Mapping[str, Path],
    protocol: dict[str, Any],
    *,
    folder: Path,
    batch_size: int,
    left_out: Sequence[LeftOut] = (),
) -> Results:
    """Embed candidates and prompts, rank, and write `results.json`.

    Args:
        candidates (`Mapping[str, Path]`): Every image that can be retrieved.
        protocol (`dict`): As in [`Results`]; the number of candidates and the rule for ties are added.
    """
    names = {name: number for number, name in enumerate(candidates)}
    images = _batched(system.embed_images, list(candidates.values()), batch_size, f"{task}: candidates")
    prompts = _batched(system.embed_prompts, [query.prompt for query in queries], batch_size, f"{task}: prompts")
    excluded = [[names[one] for one in query.excluded if one in names] for query in queries]
    targets = [names[query.target] for query in queries]
    places = target_places(prompts, images, targets, excluded if any(excluded) else None)
    scores = {**{f"recall@{k}": places.recall_at(k) for k in KS}, "mrr": places.reciprocal_ranks()}
    figures = [
        Figure(name, sum(values) / len(values), len(values), interval_of_mean(values))
        for name, values in scores.items()
    ]
    full = {**protocol, "examples": len(queries), "candidates": len(candidates), "ties": "mean over all orders"}
    results = Results(task, system.describe(), full, figures, list(left_out))
    results.write(folder / RESULTS_FILE)
    return results


def _batched(
    embed: Callable[[Sequence[_Item]], torch.Tensor], items: Sequence[_Item], batch_size: int, what: str
) -> torch.Tensor:
    begins = tqdm(range(0, len(items), batch_size), desc=what, unit="batch", disable=None)
    return torch.cat([embed(items[begin : begin + batch_size]) for begin in begins])


__all__ = ["KS", "Query", "retrieve_and_measure"]
