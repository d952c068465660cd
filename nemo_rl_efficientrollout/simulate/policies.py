"""Ways to choose γ that do not learn. Each answers for a whole array of loads at once: loads that follow on each other.

A planned future may be cut short by an arrival, so planning changes nothing; what really happened is told afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .acceptance import AcceptanceCurve
from .costs import Costs, cycles
from .workload import Counts


class Policy(Protocol):
    """One engine's choice of γ during one rollout."""

    def plan(self, batch: Vector, context: Vector) -> Counts:
        """γ for each of the loads to come; all arrays have shape [loads]."""
        ...

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        """These loads came, and γ was chosen as planned."""
        ...


class Fixed:
    """Always the same γ; 0 is plain decoding."""

    def __init__(self, draft_length: int) -> None:
        if draft_length < 0:
            raise UserError(f"draft length is {draft_length}; give 0 for plain decoding, or more")
        self._draft_length = draft_length

    def plan(self, batch: Vector, context: Vector) -> Counts:
        return np.full(len(batch), self._draft_length, dtype=np.int64)

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        return


class BatchTable:
    """γ by batch size alone, as vLLM's `num_speculative_tokens_per_batch_size`.

    A batch size that is not listed has the γ of the next smaller one that is, below all of them that of the smallest.
    """

    def __init__(self, table: Mapping[int, int]) -> None:
        if not table or min(table) < 1 or min(table.values()) < 0:
            raise UserError("batch table: expected batch sizes from 1 with draft lengths from 0; correct the table")
        self._sizes = np.array(sorted(table), dtype=float)
        self._lengths = np.array([table[size] for size in sorted(table)], dtype=np.int64)

    @classmethod
    def best(
        cls,
        costs: Costs,
        acceptance: AcceptanceCurve,
        draft_lengths: Sequence[int],
        sizes: Sequence[int],
        context: float,
    ) -> "BatchTable":
        """The table with the most tokens per second at one context length."""
        batch = np.array(sizes, dtype=float)
        lengths = Best(costs, acceptance, draft_lengths).plan(batch, np.full(len(batch), context))
        return cls({size: int(length) for size, length in zip(sizes, lengths, strict=True)})

    def plan(self, batch: Vector, context: Vector) -> Counts:
        return self._lengths[np.maximum(np.searchsorted(self._sizes, batch, side="right") - 1, 0)]

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        return


class Best:
    """The γ with the most tokens per second by a cost model and an acceptance. By the true ones it is the oracle."""

    def __init__(self, costs: Costs, acceptance: AcceptanceCurve, draft_lengths: Sequence[int]) -> None:
        self._costs, self._acceptance = costs, acceptance
        self._draft_lengths = np.array(sorted({0, *draft_lengths}), dtype=np.int64)
        acceptance.check(int(self._draft_lengths[-1]))

    def plan(self, batch: Vector, context: Vector) -> Counts:
        lengths = self._draft_lengths[1:, None]  # a row for each, all loads at once
        length = lengths.astype(np.float64)
        cycle = length * self._costs.draft(batch, context, length) + self._costs.verify(batch, context, length)
        drafted = cycle / self._acceptance.length(context, lengths)
        return self._draft_lengths[np.argmin(np.vstack([self._costs.plain(batch, context), drafted]), axis=0)]

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        return


def token_seconds(
    costs: Costs, acceptance: AcceptanceCurve, batch: Vector, context: Vector, lengths: Counts
) -> tuple[Vector, Vector, Vector]:
    """Expected seconds of plain decoding, drafting and verifying in which each request of a load gets one token."""
    tau = acceptance.length(context, lengths)
    plain, draft, verify = cycles(costs, batch, context, lengths)
    return plain, draft / tau, verify / tau
