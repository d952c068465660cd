"""Which engines a rollout may wait for: of thousands, a few are replayed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..gate.terms import Vector
from ..simulate import Costs, Workload, cluster
from .scenario import Scenario

WATCHED = 2
"""Engines with the most of each: expected time, longest response, tokens. The last one is among them, or nearly."""


@dataclass(frozen=True, eq=False)
class Deal:
    """One step's requests, dealt to the engines by chance."""

    parts: list[Workload]
    """Of the engines that have any."""
    expected: Vector
    """Rough seconds of each, plain."""

    def watched(self, among: Sequence[int]) -> set[int]:
        """Engines of these, one of which will be the last, or nearly."""
        indices = np.array(among, dtype=int)
        if len(indices) <= WATCHED:
            return set(indices.tolist())
        longest = np.array([self.parts[i].response.max() for i in indices])
        tokens = np.array([self.parts[i].tokens for i in indices])
        keys = self.expected[indices], longest, tokens
        most = [indices[np.argsort(-key, kind="stable")[:WATCHED]] for key in keys]
        return set(np.concatenate(most).tolist())


def deals(scenario: Scenario, costs: Costs, count: int, seed: int) -> Iterator[Deal]:
    """`count` ways to deal the same requests."""
    chance = np.random.default_rng(seed)
    for _ in range(count):
        parts = list(cluster.split(scenario.workload(chance), scenario.engines))
        yield Deal(parts, np.array([_seconds(part, costs, scenario.max_num_seqs) for part in parts]))


def _seconds(part: Workload, costs: Costs, most: int) -> float:
    """A step of the longest response alone, and what each further token adds in a full batch."""
    context = np.full(2, float(part.prompt.mean() + part.response.mean()))
    batch = np.array([1.0, max(min(len(part), most), 2.0)])
    alone, full = costs.plain(batch, context)
    longest = float(part.response.max())
    return float(alone * longest + (full - alone) / (batch[1] - 1.0) * (part.tokens - longest))
