"""Whether a drafter that was not remade still is as good as when it was made."""

import math
from collections.abc import Sequence

LEAST_DRAFTED = 256
"""Drafted tokens below which nothing is known."""
TOLERATED = 0.005
"""Fall of the acceptance rate that is not worth a re-quantization."""
DEVIATIONS = 1.0
"""How sure a fall must be, in standard deviations: a needless re-quantization costs little, a stale drafter more."""


class Evidence:
    """Acceptance since the last refit against acceptance of the rollout for which the drafter was made."""

    def __init__(self) -> None:
        self._now = [0, 0]  # accepted, drafted
        self._fresh: tuple[float, int] | None = None  # rate, drafted

    def observe(self, drafted: Sequence[int], accepted: Sequence[int]) -> None:
        """Count one verification."""
        self._now[0] += sum(accepted)
        self._now[1] += sum(drafted)

    def drafter_is_worse(self) -> bool:
        """Asked at a refit, which starts a new count. True also where too little was drafted to tell."""
        (accepted, drafted), self._now = self._now, [0, 0]
        if drafted < LEAST_DRAFTED:
            self._fresh = None
            return True
        rate = accepted / drafted
        if self._fresh is None:
            self._fresh = rate, drafted
            return False
        then, drafted_then = self._fresh
        deviation = math.sqrt(_variance(rate, drafted) + _variance(then, drafted_then))
        worse = then - rate > max(TOLERATED, DEVIATIONS * deviation)
        if worse:
            self._fresh = None
        return worse


def _variance(rate: float, count: int) -> float:
    return rate * (1.0 - rate) / count
