"""Confidence intervals for a statistic of two series paired by training step.

Circular block bootstrap (Politis and Romano, 1992): steps are drawn in runs of neighbours, because what happens at
one step lasts into the next, and both series with the same draws, because both follow the same course of training.
The block length is the rule of Andrews (1991, Econometrica 59) for a first-order autoregression. SciPy's bootstrap
draws single steps, which would make the intervals of such series too narrow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Values = NDArray[np.float64]
Statistic = Callable[[Values, Values], Values]
"""From two arrays [..., steps] to one value per leading index."""

CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_PAIRS = 5  # fewer steps say nothing about their own spread
CHUNK = 2_000_000  # numbers drawn at once: bounds memory in long runs
SEED = 0


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; `block` is the number of neighbouring steps that were drawn together."""

    low: float
    high: float
    block: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def exp(self) -> "Interval":
        """The interval of a ratio from that of its logarithm."""
        return Interval(math.exp(self.low), math.exp(self.high), self.block)


def log_ratio_of_medians(a: Values, b: Values) -> Values:
    """ln(median(b) / median(a)) over the last axis; all values above 0."""
    return np.log(np.median(b, axis=-1) / np.median(a, axis=-1))


def difference_of_means(a: Values, b: Values) -> Values:
    """mean(b) - mean(a) over the last axis."""
    return np.mean(b, axis=-1) - np.mean(a, axis=-1)


def interval(a: Values, b: Values, statistic: Statistic, differences: Values) -> Interval | None:
    """The interval of `statistic`: percentiles of its resamples, widened for few blocks.

    Args:
        a, b: [steps], paired. differences: [steps], of each pair, in the terms of the statistic; they decide how
            long neighbours stay alike.

    Returns:
        None for fewer than five pairs.
    """
    count = len(a)
    if count < LEAST_PAIRS:
        return None
    block = block_length(differences)
    generator = np.random.default_rng(SEED)
    blocks = math.ceil(count / block)
    found: list[Values] = []
    rows = max(1, CHUNK // count)
    for first in range(0, RESAMPLES, rows):
        starts = generator.integers(count, size=(min(rows, RESAMPLES - first), blocks, 1))
        drawn = ((starts + np.arange(block)) % count).reshape(len(starts), -1)[:, :count]
        found.append(statistic(a[drawn], b[drawn]))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    estimate, wider = float(statistic(a, b)), _few_blocks(count / block)
    return Interval(estimate + wider * (float(low) - estimate), estimate + wider * (float(high) - estimate), block)


def _few_blocks(blocks: float) -> float:
    """How much wider than a percentile interval: resamples of few blocks vary too little, as in Student's t."""
    tail = (1 + CONFIDENCE) / 2
    return float(stdtrit(blocks - 1, tail) / ndtri(tail)) * math.sqrt(blocks / (blocks - 1))


def block_length(values: Values) -> int:
    """Steps to draw together, from the correlation of neighbours; at most a quarter of the series."""
    count = len(values)
    centered = values - values.mean()
    power = float(centered @ centered)
    if power == 0:
        return 1
    correlation = float(centered[1:] @ centered[:-1]) / power
    # An estimate from few steps comes out low, by about this much (Marriott and Pope, 1954).
    correlation = min(max(correlation + (1 + 3 * correlation) / count, 0.0), 0.97)
    length = (math.sqrt(6) * correlation / (1 - correlation**2)) ** (2 / 3) * count ** (1 / 3)
    return max(1, min(round(length), count // 4))
