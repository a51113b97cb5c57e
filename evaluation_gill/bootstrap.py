"""95 % bootstrap intervals of what was measured on examples."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 1000


def interval_of_mean(values: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of one value for each example; `None` for fewer than two."""
    array = np.asarray(values, dtype=np.float64)
    return interval_of(len(array), lambda chosen: float(array[chosen].mean()), seed)


def interval_of(examples: int, statistic: Callable[[np.ndarray], float], seed: int = 0) -> tuple[float, float] | None:
    """The same for any figure.

    Args:
        examples (`int`): How many examples there are.
        statistic (`Callable`): The figure on the examples with the given int64 indices, repeated ones included.
    """
    if examples < 2:
        return None
    found = stats.bootstrap(
        (np.arange(examples),),
        lambda chosen: statistic(np.asarray(chosen)),
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=False,
        rng=seed,
    ).confidence_interval
    return float(found.low), float(found.high)


__all__ = ["LEVEL", "RESAMPLES", "interval_of", "interval_of_mean"]
