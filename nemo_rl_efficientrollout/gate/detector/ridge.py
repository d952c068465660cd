"""Rows from which weights stop being free."""

import math
from collections.abc import Sequence
from typing import NamedTuple

RISE = 1.25
"""A curve whose last point is not this far above the flat level has not left it: medians differ by some per cent."""


class Ridge(NamedTuple):
    """seconds(M) = max(flat_s, M * slope_s), fitted to a GEMM curve."""

    flat_s: float
    """Seconds of few rows: reading the weights."""
    slope_s: float | None
    """Seconds of one more row where arithmetic is the limit; None if the curve ends before."""

    @property
    def rows(self) -> float | None:
        """Where the flat level and the line through the origin meet; None if no point lies beyond.

        By the roofline this is where arithmetic takes as long as memory. Where a machine does not overlap the two,
        seconds(M) = flat_s + M * slope_s, this M takes about twice the flat time.
        """
        return None if self.slope_s is None else self.flat_s / self.slope_s


def fit_ridge(curve: Sequence[tuple[int, float]]) -> Ridge:
    """Least squares of log seconds, exact: the best of every division into flat points and rising ones.

    Args:
        curve: (rows M, seconds) with M ascending and seconds positive; at least one point.
    """
    times = [math.log(seconds) for _, seconds in curve]
    slopes = [math.log(seconds / rows) for rows, seconds in curve]
    best_error, best = math.inf, Ridge(curve[0][1], None)
    for flat_points in range(1, len(curve) + 1):
        flat = _mean(times[:flat_points])
        slope = _mean(slopes[flat_points:]) if flat_points < len(curve) else -math.inf
        error = sum(
            (time - max(flat, slope + math.log(rows))) ** 2 for time, (rows, _) in zip(times, curve, strict=True)
        )
        if error < best_error:
            best_error = error
            best = Ridge(math.exp(flat), math.exp(slope) if flat_points < len(curve) else None)
    if curve[-1][1] < RISE * best.flat_s:
        return Ridge(math.exp(_mean(times)), None)
    return best


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
