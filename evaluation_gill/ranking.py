"""At which place each query finds its target among many candidates, in blocks, so that memory stays bounded."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

# A product of matrices rounds the same image's score differently in different columns.
_TIE = 1e-6


@dataclass(frozen=True)
class Places:
    """Where targets stand: `above` candidates are scored higher, `tied` ones equal, the target itself included.

    Both int64 of shape `(queries,)`; `tied` is 0 where the target is no candidate. Equal scores are taken in every
    order, and figures are means over these.
    """

    above: torch.Tensor
    tied: torch.Tensor

    def recall_at(self, k: int) -> list[float]:
        """Chance of each target to stand among the first `k`."""
        reached = (k - self.above).clamp(min=0)
        return (torch.minimum(reached, self.tied).double() / self.tied.clamp(min=1)).tolist()

    def reciprocal_ranks(self) -> list[float]:
        """Mean of one over the place of each target."""
        # Sums of 1/n from harmonic numbers: ties may be as many as candidates.
        longest = int((self.above + self.tied).max()) if len(self.above) else 0
        harmonic = torch.cat([torch.zeros(1), torch.arange(1, longest + 1)]).double()
        harmonic[1:] = (1 / harmonic[1:]).cumsum(0)
        sums = harmonic[self.above + self.tied] - harmonic[self.above]
        return (sums / self.tied.clamp(min=1)).tolist()


@torch.no_grad()
def target_places(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    targets: Sequence[int],
    excluded: Sequence[Collection[int]] | None = None,
    query_block: int = 512,
    candidate_block: int = 4096,
) -> Places:
    """Rank candidates by their scalar product with queries.

    Args:
        queries (`torch.Tensor` of shape `(queries, p)`), candidates (`torch.Tensor` of shape `(candidates, p)`):
            Of length one, for cosines.
        targets (`Sequence[int]`): The right candidate for each query.
        excluded (`Sequence[Collection[int]]`, *optional*): For each query the candidates that do not count.
        query_block, candidate_block (`int`): Scores held at a time; 8 MB in float32 by default.

    Raises:
        ValueError: numbers, widths or indices that do not fit, or values that are not finite.
    """
    _check(queries, candidates, targets, excluded)
    above = torch.zeros(len(queries), dtype=torch.long)
    tied = torch.zeros(len(queries), dtype=torch.long)
    wanted = torch.as_tensor(targets, dtype=torch.long)
    for begin in range(0, len(queries), query_block):
        rows = slice(begin, begin + query_block)
        block, right = queries[rows], wanted[rows]
        own = (block * candidates[right]).sum(1)
        for first in range(0, len(candidates), candidate_block):
            scores = block @ candidates[first : first + candidate_block].T
            for row, outside in enumerate(excluded[rows] if excluded is not None else ()):
                scores[row, [item - first for item in outside if first <= item < first + scores.shape[1]]] = -torch.inf
            higher = (scores > own[:, None] + _TIE).count_nonzero(1)
            above[rows] += higher
            tied[rows] += (scores >= own[:, None] - _TIE).count_nonzero(1) - higher
    if excluded is not None:
        for row, gone in enumerate(excluded):
            if int(wanted[row]) in gone:
                above[row], tied[row] = len(candidates) - len(set(gone)), 0
    return Places(above, tied)


def _check(
    queries: torch.Tensor, candidates: torch.Tensor, targets: Sequence[int], excluded: Sequence[Collection[int]] | None
) -> None:
    if queries.dim() != 2 or candidates.dim() != 2 or queries.shape[1] != candidates.shape[1]:
        raise ValueError(
            f"Queries {tuple(queries.shape)} and candidates {tuple(candidates.shape)} must both be of shape (n, p)."
        )
    if len(targets) != len(queries) or (excluded is not None and len(excluded) != len(queries)):
        given = f"{len(targets)} targets" + (f" and {len(excluded)} exclusions" if excluded is not None else "")
        raise ValueError(f"{given} were given for {len(queries)} queries.")
    if any(not 0 <= item < len(candidates) for item in targets):
        raise ValueError(f"A target is none of the {len(candidates)} candidates.")
    for name, values in (("queries", queries), ("candidates", candidates)):
        if not torch.isfinite(values).all():
            raise ValueError(f"The {name} hold values that are not finite.")


__all__ = ["Places", "target_places"]
