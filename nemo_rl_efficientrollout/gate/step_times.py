"""What a draft-verify cycle costs against plain decoding, from measured step times."""

import math
from collections import deque
from itertools import pairwise
from statistics import median

BUCKETS_PER_DOUBLING = 4
"""Batch sizes within 19 % share a bucket: their step times differ by less than the noise of one step."""
WINDOW = 32
ENOUGH = 5
"""Samples kept per (bucket, γ), and how many make a median worth believing."""
PRIOR_COST = 0.5
"""Cost of one more draft token, in plain steps, before anything was measured: an int8 drafter, free verification."""


class StepTimes:
    """Median step seconds by (bucket of active requests, γ), and cost ratios between them."""

    def __init__(self) -> None:
        self._samples: dict[int, dict[int, deque[float]]] = {}

    def observe(self, active: int, draft_length: int, seconds: float) -> None:
        """Record a steady step."""
        by_length = self._samples.setdefault(bucket(active), {})
        by_length.setdefault(draft_length, deque(maxlen=WINDOW)).append(seconds)

    def seconds(self, active: int, draft_length: int) -> float | None:
        """Median seconds of a step, or None before `ENOUGH` were seen in this bucket."""
        return self._median(bucket(active), draft_length)

    def has_baseline(self, active: int) -> bool:
        """Whether plain decoding was measured at this batch size, or within half a doubling of it."""
        here = bucket(active)
        return any(
            abs(there - here) <= BUCKETS_PER_DOUBLING // 2 and self._median(there, 0) is not None
            for there in self._samples
        )

    def has_ratio(self, active: int) -> bool:
        """Whether the cost of any draft was measured within a doubling of this batch size."""
        here = bucket(active)
        return any(abs(there - here) <= BUCKETS_PER_DOUBLING and self._ratios(there) for there in self._samples)

    def cost_ratio(self, active: int, draft_length: int) -> float:
        """Seconds of a cycle with γ = `draft_length` over seconds of a plain step, at `active` requests.

        Measured here, else in the nearest bucket, else linear between the measured γ, else the prior.
        """
        if draft_length == 0:
            return 1.0
        here = bucket(active)
        for there in sorted(self._samples, key=lambda other: abs(other - here)):
            ratios = self._ratios(there)
            if ratios:
                return _interpolate(ratios, draft_length)
        return 1.0 + PRIOR_COST * draft_length

    def _ratios(self, index: int) -> dict[int, float]:
        plain = self._median(index, 0)
        if plain is None:
            return {}
        return {
            length: seconds / plain
            for length in self._samples[index]
            if length and (seconds := self._median(index, length)) is not None
        }

    def _median(self, index: int, draft_length: int) -> float | None:
        samples = self._samples.get(index, {}).get(draft_length, ())
        return median(samples) if len(samples) >= ENOUGH else None


def bucket(active: int) -> int:
    """Index of the bucket of a batch size: geometric, four per doubling."""
    return round(BUCKETS_PER_DOUBLING * math.log2(max(active, 1)))


def _interpolate(ratios: dict[int, float], draft_length: int) -> float:
    """Piecewise linear through (0, 1) and the measured γ, continued with the slope of the last piece."""
    points = [(0, 1.0), *sorted(ratios.items())]
    for (left, low), (right, high) in pairwise(points):
        if draft_length <= right or right == points[-1][0]:
            return low + (high - low) * (draft_length - left) / (right - left)
    raise AssertionError("unreachable: the last piece always returns")
