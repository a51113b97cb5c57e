"""95 % bootstrap intervals of statistics over examples."""

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
    """The same for any statistic.

    Args:
        examples (`int`): Number of examples.
        statistic (`Callable`): The value for the examples with the given int64 indices, repeated ones included.
    """
    if examples < 2:
        return None
    interval = stats.bootstrap(
        (np.arange(examples),),
        lambda chosen: statistic(np.asarray(chosen)),
        confidence_level=LEVEL,
        n_resamples=RESAMPLES,
        method="percentile",
        vectorized=False,
        rng=seed,
    ).confidence_interval
    return float(interval.low), float(interval.high)


__all__ = ["LEVEL", "RESAMPLES", "interval_of", "interval_of_mean"]
