"""Data-parallel engines: each has its part of a rollout, and a synchronous step waits for the last of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .costs import Costs, Slowed
from .rollout import Rollout
from .workload import Workload

Replay = Callable[[Workload, Costs], Rollout]
"""One engine's part, with its own costs; makes its policy anew."""


@dataclass(frozen=True, eq=False)
class Makespan:
    """What a step waits for."""

    seconds: Vector
    """Of each engine; shape [engines]."""
    tokens: float

    @property
    def longest(self) -> float:
        """When the last engine is done."""
        return float(self.seconds.max())

    @property
    def waiting(self) -> float:
        """Share of the engines' time until then in which they are done already."""
        return 1.0 - float(self.seconds.mean()) / self.longest


def split(workload: Workload, engines: int) -> Iterator[Workload]:
    """Consecutive parts, sizes differing by one group of samples at most; engines beyond the groups get none."""
    if engines < 1:
        raise UserError(f"{engines} engines were asked for, expected at least 1; give a positive number")
    starts = np.flatnonzero(np.diff(workload.group, prepend=workload.group[0] - 1))
    for part in np.array_split(starts, engines):
        if len(part):
            after = starts[starts > part[-1]]
            yield workload.part(np.arange(part[0], after[0] if len(after) else len(workload)))


def run(workload: Workload, engines: int, costs: Costs, replay: Replay, slowness: Sequence[float] = ()) -> Makespan:
    """A whole cluster, engine by engine; memory does not grow with their number.

    Args:
        workload: all requests, those of one prompt in a row.
        engines: data-parallel replicas: GPUs over the GPUs of one engine.
        costs: of one engine.
        replay: one engine's rollout.
        slowness: factor on every step of each engine; all 1 by default.

    Raises:
        UserError: no engines, a factor for some engines only, or one that is not positive.
    """
    if len(slowness) not in (0, engines):
        raise UserError(f"{len(slowness)} factors of slowness for {engines} engines; give one for each, or none")
    if len(slowness) and min(slowness) <= 0.0:
        raise UserError(f"a factor of slowness is {min(slowness)}; give positive ones, 1 for a sound engine")
    seconds, tokens = np.zeros(engines), 0.0
    for index, part in enumerate(split(workload, engines)):
        rollout = replay(part, Slowed(costs, slowness[index]) if len(slowness) else costs)
        seconds[index] = rollout.seconds
        tokens += rollout.tokens
    return Makespan(seconds, tokens)
