"""What one rollout has to generate: a prompt, a response length and an arrival time for each request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..gate.terms import Vector

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order in which they are asked for; every array has shape [requests]."""

    prompt: Counts
    """Tokens."""
    response: Counts
    """Tokens, at least 1."""
    arrival: Vector
    """Seconds from the start of the rollout, ascending."""
    group: Counts
    """Requests of one group have the same prompt: under prefix caching it is prefilled once."""

    def __post_init__(self) -> None:
        sizes = {len(column) for column in (self.prompt, self.response, self.arrival, self.group)}
        if len(sizes) > 1:
            raise UserError(f"workload: columns have {sorted(sizes)} entries; give each request one of every kind")
        if not len(self):
            raise UserError("workload: no requests; give at least one")
        for name, column, least in (("prompt", self.prompt, 0), ("response", self.response, 1)):
            wrong = np.flatnonzero(column < least)
            if len(wrong):
                raise UserError(
                    f"workload: request {wrong[0]} has a {name} of {column[wrong[0]]} tokens,"
                    f" expected at least {least}; correct or remove it"
                )
        if not np.all(np.isfinite(self.arrival)) or self.arrival[0] < 0.0 or np.any(np.diff(self.arrival) < 0.0):
            raise UserError("workload: arrivals are seconds from 0 on and ascend; sort the requests by them")

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def tokens(self) -> int:
        """To be generated."""
        return int(self.response.sum())

    def part(self, chosen: Counts) -> "Workload":
        """Only these requests, in this order."""
        return Workload(self.prompt[chosen], self.response[chosen], self.arrival[chosen], self.group[chosen])


def at_once(prompt: Counts, response: Counts, samples: int = 1) -> Workload:
    """A synchronous rollout: all requests are there from the start; `samples` in a row share a prompt."""
    count = len(response)
    return Workload(np.asarray(prompt), np.asarray(response), np.zeros(count), np.arange(count) // samples)
