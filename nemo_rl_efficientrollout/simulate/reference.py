"""The reference's way (arXiv 2606.18967, EfficientRollout at 0ff0bc5): a one-way toggle, and γ from rollout to rollout.

Within a rollout speculation is off until a calibrated roofline predicts 1.05 times the speed of plain decoding, and on
from there to the end, at one γ. The τ by which it is predicted is that of the rollout before; of the first it is γ.
"""

from collections import deque

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .costs import Costs
from .workload import Counts

THRESHOLD = 1.05
"""Predicted speed-up from which it speculates."""
RAMP = 32
"""Requests that must once have been exceeded before the toggle is looked at: a rollout that has only begun is small,
too. An engine that never runs more never speculates."""
RUNGS = (5, 7, 9, 11)
CLIMB, DESCEND = 0.94, 0.85
"""Share of drafts accepted from which γ goes one rung up, and to which one down."""
PERSISTENCE = 2
"""Rollouts that must agree."""


class OneWayToggle:
    """One rollout of one engine."""

    def __init__(
        self, costs: Costs, draft_length: int, tau: float, threshold: float = THRESHOLD, ramp: int = RAMP
    ) -> None:
        """Decide by `costs`, which may differ from the truth, and `tau` tokens per cycle."""
        self._costs, self._draft_length, self._tau = costs, draft_length, tau
        self._threshold, self._ramp = threshold, ramp
        self._ramped = self._on = False

    def plan(self, batch: Vector, context: Vector) -> Counts:
        length = np.full(len(batch), float(self._draft_length))
        cycle = length * self._costs.draft(batch, context, length) + self._costs.verify(batch, context, length)
        gains = self._tau * self._costs.plain(batch, context) / cycle >= self._threshold
        ramped = self._ramped | np.logical_or.accumulate(batch > self._ramp)
        on = self._on | np.logical_or.accumulate(ramped & gains)
        return np.where(on, self._draft_length, 0).astype(np.int64)

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        self._ramped |= bool(np.any(batch > self._ramp))
        self._on |= bool(np.any(lengths > 0))


class Ladder:
    """γ between rollouts: one rung up or down when the last few rollouts agree."""

    def __init__(self, rungs: tuple[int, ...] = RUNGS) -> None:
        if not rungs or list(rungs) != sorted(set(rungs)):
            raise UserError(f"ladder: rungs {list(rungs)} do not ascend; give draft lengths such as 5, 7, 9, 11")
        self._rungs, self._at = rungs, 0
        self._shares: deque[float] = deque(maxlen=PERSISTENCE)
        self.tau = float(rungs[0])
        """Tokens per cycle that the next rollout's toggle expects: optimistic until measured at this rung."""

    @property
    def draft_length(self) -> int:
        """Of the next rollout."""
        return self._rungs[self._at]

    def observe(self, tau: float) -> None:
        """A rollout measured `tau` tokens per cycle at the present rung."""
        self.tau = tau
        self._shares.append((tau - 1.0) / self.draft_length)
        if len(self._shares) < PERSISTENCE:
            return
        up = min(self._shares) >= CLIMB and self._at < len(self._rungs) - 1
        down = max(self._shares) <= DESCEND and self._at > 0
        if up or down:
            self._at += 1 if up else -1
            self._shares.clear()
            self.tau = float(self.draft_length)
