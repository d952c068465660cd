"""The latest steps of one engine, in memory that is taken at once: what nobody reads must not grow."""

import numpy as np

from ..gate import Step

STEPS = 65536
"""Kept between two readings: a rollout of 8k tokens several times over."""
COLUMNS = np.dtype(
    [
        ("seconds", "f8"),
        ("active", "i4"),
        ("context", "f8"),
        ("draft_length", "i4"),
        ("asked", "i4"),
        ("drafted", "i4"),
        ("accepted", "i4"),
        ("decode_only", "?"),
        ("step_seconds", "f8"),
    ]
)


class Timeline:
    """A ring: what is older than so many steps is lost."""

    def __init__(self, steps: int = STEPS) -> None:
        self._rows = np.full(steps, 0, COLUMNS)  # written, so that its pages are there: 3 MB
        self._recorded = 0

    def record(self, step: Step, finished_at: float, drafted: int, accepted: int) -> None:
        """Add a step that ended at `finished_at` (seconds of a monotonic clock)."""
        self._rows[self._recorded % len(self._rows)] = (
            finished_at,
            step.load.batch,
            step.load.context,
            step.verified,
            step.asked,
            drafted,
            accepted,
            step.decode_only,
            step.seconds,
        )
        self._recorded += 1

    def take(self) -> dict[str, list[float]]:
        """The steps since the last call, as equally long lists; `seconds` counts from the first step's start."""
        oldest = self._recorded % len(self._rows) if self._recorded > len(self._rows) else 0
        rows = np.roll(self._rows[: self._recorded], -oldest)
        self._recorded = 0
        if len(rows):
            rows["seconds"] -= rows["seconds"][0] - rows["step_seconds"][0]
        return {name: rows[name].tolist() for name in COLUMNS.names or ()}
