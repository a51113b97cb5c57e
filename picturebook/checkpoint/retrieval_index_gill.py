"""Exact search for the nearest unit vectors, with faiss if it is installed, else in blocks with numpy.

Both give the same result to the last bit: candidates are scored again in float64. Of equal scores, the lower index
comes first.
"""

import os
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import torch

try:
    import faiss
except ImportError:
    faiss = None  # type: ignore[assignment]

# Rows read at once: 64 MiB of 256-vectors.
_BLOCK_ROWS = 65536
# Error of a float32 product of two unit vectors. Only rows further below the k-th best are ruled out.
_MARGIN = 1e-5
_SPARE_ROWS = 32
_LENGTH_SLACK = 1e-3


class ExactIndex:
    """Search among unit vectors in arrays, which may be memory-mapped.

    With faiss, the first search copies the vectors into a `faiss.IndexFlatIP` unless [`ExactIndex.use_faiss`] gave one.

    Args:
        pieces (`Collection[numpy.ndarray]`):
            float32 arrays of shape `(num_vectors, retrieval_dim)` that follow one another, each vector of length one.
    """

    def __init__(self, pieces: Collection[np.ndarray]) -> None:
        self._pieces = [piece for piece in pieces if len(piece)]
        self._starts = np.cumsum([0, *map(len, self._pieces)])
        self._faiss_index: Any = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the nearest rows.

        Args:
            queries (`torch.Tensor` of shape `(num_queries, retrieval_dim)`):
                Non-zero vectors, normalized internally.
            k (`int`): Number of neighbors; fewer are returned if there are fewer vectors.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: Cosines, float32, and indices, int64, both of shape
            `(num_queries, k)`, best first.

        Raises:
            ValueError: `queries` has another shape, or a row that is zero, NaN or infinite; `k` is not positive.
        """
        units = self._unit_queries(queries)
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1")
        k = min(k, len(self))
        proposed_scores, proposed = self._propose(units.astype(np.float32), min(k + _SPARE_ROWS, len(self)))
        scores, indices = np.empty((len(units), k), np.float32), np.empty((len(units), k), np.int64)
        for row, unit in enumerate(units):
            everything = proposed.shape[1] == len(self)
            if everything or proposed_scores[row, -1] < proposed_scores[row, k - 1] - 2 * _MARGIN:
                candidates = np.sort(proposed[row])
                exact = (self._rows(candidates).astype(np.float64) @ unit).astype(np.float32)
            else:  # many nearly equal scores: there may be more than were proposed
                candidates, exact = np.arange(len(self)), self._all_scores(unit)
            best = np.argsort(-exact, kind="stable")[:k]
            scores[row], indices[row] = exact[best], candidates[best]
        return torch.from_numpy(scores), torch.from_numpy(indices)

    def best_first(self, query: torch.Tensor) -> Iterator[tuple[int, float]]:
        """Yield the index and cosine of all vectors for a query `(retrieval_dim,)`, best first; searches as needed."""
        seen, k = 0, _SPARE_ROWS
        while seen < len(self):
            if k <= 16 * _SPARE_ROWS:
                scores, indices = self.search(query[None], k)
                ranked = zip(indices[0, seen:].tolist(), scores[0, seen:].tolist(), strict=True)
                seen, k = min(k, len(self)), 4 * k
            else:
                exact = self._all_scores(self._unit_queries(query[None])[0])
                order = np.argsort(-exact, kind="stable")[seen:]
                ranked = zip(order.tolist(), exact[order].tolist(), strict=True)
                seen = len(self)
            yield from ranked

    def use_faiss(self, index: Any) -> None:
        """Search with a `faiss.IndexFlatIP` of the same vectors; `None` changes nothing.

        Raises:
            ValueError: the index holds other vectors.
        """
        if index is None:
            return
        for row in {0, len(self) // 2, len(self) - 1}:
            if not np.allclose(index.reconstruct(row), self._rows(np.array([row]))[0], atol=_MARGIN):
                raise ValueError(f"row {row} of the faiss index differs from the embedding; it is of another set")
        self._faiss_index = index

    def write_faiss(self, path: str | os.PathLike[str]) -> bool:
        """Write the vectors as a faiss index. Returns `False`, and writes no file, without faiss."""
        if faiss is None:
            return False
        faiss.write_index(self._built(), os.fspath(path))
        return True

    def blocks(self) -> Iterator[np.ndarray]:
        """All vectors in order, in float32 arrays of at least 65,536 vectors, except for the last array."""
        waiting: list[np.ndarray] = []
        for piece in self._pieces:
            for start in range(0, len(piece), _BLOCK_ROWS):
                waiting.append(piece[start : start + _BLOCK_ROWS])
                if sum(map(len, waiting)) >= _BLOCK_ROWS:
                    yield np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
                    waiting = []
        if waiting:
            yield np.concatenate(waiting) if len(waiting) > 1 else waiting[0]

    @property
    def _width(self) -> int:
        return int(self._pieces[0].shape[1])

    def _unit_queries(self, queries: torch.Tensor) -> np.ndarray:
        if queries.ndim != 2 or queries.shape[1] != self._width:
            raise ValueError(f"the queries have shape {tuple(queries.shape)}, expected (n, {self._width})")
        values = queries.detach().to("cpu", torch.float64).numpy()
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("a query is zero, NaN or infinite; expected vectors with a direction")
        return values / lengths

    def _propose(self, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The `count` best rows of each float32 query, with scores to float32 rounding, best first."""
        if faiss is not None:
            return self._built().search(queries, count)
        scores, indices = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        start = 0
        for block in self.blocks():
            found = queries @ block.T
            numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
            scores, indices = np.hstack([scores, found]), np.hstack([indices, numbers])
            if scores.shape[1] > count:
                best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
                scores, indices = np.take_along_axis(scores, best, 1), np.take_along_axis(indices, best, 1)
            start += len(block)
        order = np.argsort(-scores, axis=1, kind="stable")
        return np.take_along_axis(scores, order, 1), np.take_along_axis(indices, order, 1)

    def _built(self) -> Any:
        if self._faiss_index is None:
            index = faiss.IndexFlatIP(self._width)
            for block in self.blocks():
                index.add(np.ascontiguousarray(block))
            self._faiss_index = index
        return self._faiss_index

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        places = np.searchsorted(self._starts, indices, side="right") - 1
        pairs = zip(places, indices - self._starts[places], strict=True)
        return np.stack([self._pieces[place][offset] for place, offset in pairs])

    def _all_scores(self, unit: np.ndarray) -> np.ndarray:
        return np.concatenate([block.astype(np.float64) @ unit for block in self.blocks()]).astype(np.float32)


def embedding_pieces(dataset: Any, retrieval_dim: int) -> list[np.ndarray]:
    """The column `embedding` of a dataset as float32 views of its memory map, `(num_vectors, retrieval_dim)` each.

    Raises:
        ValueError: it holds something else than vectors of `retrieval_dim` and length one.
    """
    feature = dataset.features["embedding"]
    if getattr(feature, "length", -1) != retrieval_dim or feature.feature.dtype != "float32":
        raise ValueError(f"the column 'embedding' holds {feature}, expected {retrieval_dim} x float32 a row")
    column = dataset.data.column("embedding")
    if column.null_count:
        raise ValueError(f"{column.null_count} embeddings are missing")
    pieces = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, retrieval_dim) for chunk in column.chunks]
    begin = 0
    for piece in pieces:
        # All of them: a single one that is too long would be the nearest of most queries.
        for start in range(0, len(piece), _BLOCK_ROWS):
            block = piece[start : start + _BLOCK_ROWS]
            lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
            wrong = np.flatnonzero(~(np.abs(lengths - 1) < _LENGTH_SLACK))
            if len(wrong):
                raise ValueError(
                    f"embedding {begin + start + wrong[0]} is of length {lengths[wrong[0]]:.4g}, expected 1"
                )
        begin += len(piece)
    return pieces


def read_faiss(path: str | os.PathLike[str], rows: int, width: int) -> Any:
    """Open a file with a `faiss.IndexFlatIP`, memory-mapped if faiss can.

    No other index is accepted: the search promises the nearest images, and others (IVF, HNSW, PQ) may miss them.

    Args:
        path (`str` or `os.PathLike`): The file.
        rows, width (`int`): Number and length of its vectors.

    Returns:
        `faiss.IndexFlatIP`, or `None` without faiss.

    Raises:
        ValueError: the file is no such index; names the file, what was found and what was expected.
    """
    if faiss is None:
        return None
    try:
        index = faiss.read_index(os.fspath(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError as error:
        raise ValueError(f"{path} could not be read as a faiss index, truncated perhaps ({error})") from error
    found = f"{type(index).__name__} of {index.ntotal} x {index.d}"
    if found != f"IndexFlatIP of {rows} x {width}":
        raise ValueError(
            f"{path} holds an {found}, expected an IndexFlatIP of {rows} x {width}, as no other index is exact; delete "
            "the file to have the index made from the embeddings"
        )
    return index


__all__ = ["ExactIndex", "embedding_pieces", "read_faiss"]
