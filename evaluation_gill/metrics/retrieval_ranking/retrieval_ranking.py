"""Recall@k, mean reciprocal rank and NDCG of rankings by scores."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import torch
from torchmetrics.functional.retrieval import retrieval_normalized_dcg

_DESCRIPTION = """
How well scores rank what is relevant among candidates. Candidates with equal scores are taken in every order, and what
is reported is the mean over these orders: a model that scores all alike gets what chance gets, wherever in the list the
right answer stands. `-inf` is no candidate.

recall@k and MRR take the most relevant candidate for the right one; NDCG takes all relevances, and the first k places
where k is the number of candidates that are relevant at all, as Visual Dialog does.
"""
_INPUTS = """
Args:
    predictions: for each query a list of scores, one for each candidate, higher is better.
    references: for each query a list of relevances of the same length, 0 for what is not relevant.
    ks (sequence of int): places that recall@k looks at; 1, 5 and 10 by default.
Returns:
    recall@k (float) for each k, mrr (float), ndcg (float): means. scores (dict of list of float): the same for each
    query.
Raises:
    ValueError: no queries, lists of different lengths, NaN, a query with nothing relevant; names the query.
"""
_CITATION = "@inproceedings{das2017visdial, title={Visual Dialog}, booktitle={CVPR}, year={2017}}"


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class RetrievalRanking(evaluate.Metric):
    """Recall@k, MRR, NDCG."""

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": numbers, "references": numbers}),
        )

    def _compute(self, predictions: Any, references: Any, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
        if not len(predictions):
            raise ValueError("retrieval_ranking was given no queries.")
        found: dict[str, list[float]] = {**{f"recall@{k}": [] for k in ks}, "mrr": [], "ndcg": []}
        for number, (scores, relevances) in enumerate(zip(predictions, references, strict=True)):
            if len(scores) != len(relevances):
                raise ValueError(f"Query {number} has {len(scores)} scores for {len(relevances)} relevances.")
            scores, relevances = torch.tensor(scores).double(), torch.tensor(relevances).double()
            if scores.isnan().any() or not (relevances > 0).any():
                wrong = "a score that is not a number" if scores.isnan().any() else "nothing that is relevant"
                raise ValueError(f"Query {number} has {wrong}.")
            target = relevances.argmax()
            above = int((scores > scores[target]).sum())
            # Excluded as a candidate, it is found at no place.
            tied = int((scores == scores[target]).sum()) if scores[target] > -torch.inf else 0
            places = range(above + 1, above + tied + 1)
            for k in ks:
                found[f"recall@{k}"].append(sum(place <= k for place in places) / max(1, tied))
            found["mrr"].append(sum(1 / place for place in places) / max(1, tied))
            found["ndcg"].append(_ndcg(scores, relevances))
        return {**{name: sum(values) / len(values) for name, values in found.items()}, "scores": found}


def _ndcg(scores: torch.Tensor, relevances: torch.Tensor) -> float:
    # torchmetrics takes neither `-inf` as a candidate's absence nor ties of such for less than a rank.
    finite = scores > -torch.inf
    gone = relevances[~finite].sum() > 0
    top = int((relevances > 0).sum())
    if not gone:
        return float(retrieval_normalized_dcg(scores[finite], relevances[finite], top_k=top))
    lowest = scores[finite].min() - 1 if finite.any() else torch.tensor(0.0)
    reached = torch.where(finite, relevances, 0.0)
    if not (reached > 0).any():
        return 0.0
    # What is excluded counts in the ideal order but is never found.
    ideal = _dcg(relevances.sort(descending=True).values[:top])
    own = float(retrieval_normalized_dcg(torch.where(finite, scores, lowest), reached, top_k=top))
    return own * _dcg(reached.sort(descending=True).values[:top]) / ideal


def _dcg(relevances: torch.Tensor) -> float:
    return float((relevances / torch.log2(torch.arange(len(relevances)).double() + 2)).sum())
