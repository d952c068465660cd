"""Whether a series grows: its slope, and how sure that is."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, theilslopes

PER = 1000
"""Cycles by which slopes are told."""
WARM_UP = 0.2
"""Share of a soak that is not judged: caches of a bounded size fill up."""


class Growth(NamedTuple):
    """Of one resource."""

    first: float
    last: float
    slope: float
    """Per 1,000 cycles."""
    low: float
    high: float
    """Its interval of 95 %, which takes readings to be independent of each other."""

    def beyond(self, allowed: float) -> bool:
        """Whether it may grow by more than `allowed` per 1,000 cycles: a leak of that size does not get through."""
        return self.high > allowed


def growth(cycles: Sequence[float], values: Sequence[float]) -> Growth:
    """Of readings after so many cycles each, from the warm-up on: the median slope of all pairs (Theil-Sen)."""
    start = next(index for index, cycle in enumerate(cycles) if cycle >= WARM_UP * cycles[-1])
    slope, _, low, high = map(float, theilslopes(values[start:], cycles[start:], 0.95))
    return Growth(values[start], values[-1], PER * slope, PER * low, PER * high)


def trend(cycles: Sequence[float], values: Sequence[float]) -> Growth:
    """Of readings that are noise for the most part: the line of least squares through all of them."""
    line, covariance = np.polyfit(cycles, values, 1, cov=True)
    first, last = map(float, np.polyval(line, [cycles[0], cycles[-1]]))
    slope, margin = PER * float(line[0]), PER * float(norm.ppf(0.975) * np.sqrt(covariance[0, 0]))
    return Growth(first, last, slope, slope - margin, slope + margin)
