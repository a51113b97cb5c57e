"""Places of targets in blocks: the same as all at once, ties and exclusions included."""

import pytest
import torch

from evaluation_gill.metric_loading import load_metric
from evaluation_gill.ranking import target_places


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_blocks_of_any_size_give_what_the_metric_gives_on_all_scores_ties_and_exclusions_included() -> None:
    torch.manual_seed(0)
    queries, candidates = unit(23, 8), unit(31, 8)
    # The same image several times, in different blocks.
    candidates[[5, 17, 30]] = candidates[2].clone()
    targets = [2, 5, 30, *torch.randint(31, (20,)).tolist()]
    excluded = [{(target + 3) % 31, (target + 11) % 31} for target in targets]
    excluded[4] = {targets[4]}
    scores = (queries.double() @ candidates.double().T).tolist()
    for row, gone in enumerate(excluded):
        for one in gone:
            scores[row][one] = -torch.inf
    # Equal images have equal scores, whatever rounding says.
    scores = [[round(one, 7) for one in row] for row in scores]
    relevances = [[float(one == target) for one in range(31)] for target in targets]
    wanted = load_metric("retrieval_ranking").compute(predictions=scores, references=relevances, ks=[1, 5])["scores"]
    for query_block, candidate_block in ((100, 100), (4, 7), (1, 1)):
        places = target_places(queries, candidates, targets, excluded, query_block, candidate_block)
        assert places.recall_at(1) == pytest.approx(wanted["recall@1"])
        assert places.recall_at(5) == pytest.approx(wanted["recall@5"])
        assert places.reciprocal_ranks() == pytest.approx(wanted["mrr"])


def test_candidates_that_are_all_alike_give_what_chance_gives() -> None:
    candidates = unit(1, 4).expand(10, 4)
    places = target_places(unit(3, 4), candidates, [0, 4, 9], candidate_block=3)
    assert places.recall_at(1) == [0.1] * 3 and places.recall_at(5) == [0.5] * 3


@pytest.mark.parametrize(
    ("queries", "targets", "excluded", "said"),
    [
        (torch.zeros(2, 3), [0, 1], None, r"Queries \(2, 3\) and candidates \(5, 4\)"),
        (torch.zeros(2, 4), [0], None, "1 targets were given for 2 queries"),
        (torch.zeros(2, 4), [0, 5], None, "none of the 5 candidates"),
        (torch.full((2, 4), torch.nan), [0, 1], None, "queries hold values that are not finite"),
    ],
)
def test_what_does_not_fit_is_refused(queries: torch.Tensor, targets: list[int], excluded: None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        target_places(queries, torch.zeros(5, 4), targets, excluded)
