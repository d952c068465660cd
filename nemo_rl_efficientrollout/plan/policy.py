"""The choice of γ that a plan counts with: the best one, of the batches that are drafted for."""

import numpy as np

from ..gate.terms import Vector
from ..simulate import AcceptanceCurve, Best, Costs
from ..simulate.workload import Counts

PER_DOUBLING = 16
"""Contexts within 4 % are decided alike, as the gate does."""
_LEVELS = 2**12


class BestWithin:
    """What the gate comes within 2 % of in simulated rollouts (benchmarks/results/simulate-paper.md)."""

    def __init__(self, costs: Costs, acceptance: AcceptanceCurve, most_drafted_for: int) -> None:
        self._best = Best(costs, acceptance, range(1, acceptance.max_draft_length + 1))
        self._most = most_drafted_for

    def plan(self, batch: Vector, context: Vector) -> Counts:
        level = np.rint(PER_DOUBLING * np.log2(1.0 + context)).astype(np.int64)
        loads, where = np.unique(batch.astype(np.int64) * _LEVELS + level, return_inverse=True)
        size, level = loads // _LEVELS, loads % _LEVELS
        lengths = self._best.plan(size.astype(float), 2.0 ** (level / PER_DOUBLING) - 1.0)
        return np.where(size <= self._most, lengths, 0)[where]

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        return
