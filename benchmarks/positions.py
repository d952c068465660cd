"""Acceptance by position of the draft, from single verifications, with intervals over requests.

Position i counts a draft only if it was reached: drafted, and every draft before it accepted. What a draft says behind
the end token is produced by nobody and is left out. α_i is then the chance that a reached draft is accepted, and
τ(γ) = 1 + α_1 + α_1 α_2 + … + α_1 ⋯ α_γ for every γ up to the longest drafted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nemo_rl_efficientrollout.errors import UserError

DRAWS = 2000
LOW, HIGH = 0.025, 0.975
RULE_OF_THREE = 3.0
"""Of n drafts that were all accepted, fewer than 3 / n of all are rejected, with 95 % confidence."""


class Verification(NamedTuple):
    """One draft of one request and what the policy made of it."""

    drafted: int
    sampled: Sequence[int]
    """Accepted drafts and the policy's own token behind them."""

    @property
    def accepted(self) -> int:
        return len(self.sampled) - 1

    def until(self, end: int) -> tuple[int, int]:
        """Drafted and accepted tokens up to the end token, which counts."""
        most = self.sampled.index(end) + 1 if end in self.sampled else self.drafted
        return min(self.drafted, most), min(self.accepted, most)


@contextmanager
def watched(scheduler: Any) -> Iterator[dict[str, list[Verification]]]:
    """Every verification by request, while the block runs: the engine's own counters do not tell requests apart."""
    seen: dict[str, list[Verification]] = {}
    original = scheduler.update_from_output

    def update_from_output(output: Any, result: Any) -> Any:
        for request, draft in output.scheduled_spec_decode_tokens.items():
            sampled = list(result.sampled_token_ids[result.req_id_to_index[request]])
            if sampled:
                seen.setdefault(request, []).append(Verification(len(draft), sampled))
        return original(output, result)

    scheduler.update_from_output = update_from_output
    try:
        yield seen
    finally:
        del scheduler.update_from_output


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Positions:
    """Counts [requests, longest draft] by request and position."""

    reached: NDArray[np.int64]
    kept: NDArray[np.int64]
    drafted: int
    """Drafted tokens, reached or not."""

    @classmethod
    def of(cls, requests: Sequence[Sequence[Verification]], longest: int, end: int) -> "Positions":
        """Count the verifications of each request; `end` is the end token. Raises UserError without any draft."""
        reached, kept = np.zeros((2, len(requests), longest), np.int64)
        total = 0
        for row, verifications in enumerate(requests):
            for verification in verifications:
                drafted, accepted = verification.until(end)
                total += drafted
                reached[row, : min(drafted, accepted + 1)] += 1
                kept[row, :accepted] += 1
        if not reached.sum(axis=0).all():
            raise UserError(f"no draft was accepted as far as position {longest}: draft less, or answer more requests")
        return cls(reached, kept, total)

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """α [draws, positions] of requests drawn again: tokens of one request agree more than those of two."""
        count = len(self.reached)
        weights = np.random.default_rng(0).multinomial(count, [1 / count] * count, DRAWS)
        # A draw that never reaches a position says nothing of it.
        return (weights @ self.kept) / np.maximum(weights @ self.reached, 1)

    def rate(self, position: int) -> Estimate:
        """α of a position, counted from 1."""
        reached, kept = self.reached[:, position - 1].sum(), self.kept[:, position - 1].sum()
        low, high = np.quantile(self._draws[:, position - 1], (LOW, HIGH))
        if kept == reached:  # the bootstrap cannot draw what was never seen
            low = 1.0 - RULE_OF_THREE / max(reached, RULE_OF_THREE)
        return Estimate(float(kept / reached), float(low), float(high))

    def length(self, gamma: int) -> Estimate:
        """τ(γ)."""
        rates = self.kept.sum(axis=0)[:gamma] / self.reached.sum(axis=0)[:gamma]
        low, high = np.quantile(_lengths(self._draws[:, :gamma]), (LOW, HIGH))
        if (rates == 1.0).all():
            seen = self.reached[:, :gamma].sum()
            low = _lengths(np.full((1, gamma), 1.0 - RULE_OF_THREE / max(seen, RULE_OF_THREE)))[0]
        return Estimate(float(_lengths(rates[None])[0]), float(low), float(high))

    def longer_than(self, other: "Positions", gamma: int) -> Estimate:
        """τ(γ) of this less that of `other`, whose requests were others."""
        difference = _lengths(self._draws[:, :gamma]) - _lengths(other._draws[:, :gamma])
        low, high = np.quantile(difference, (LOW, HIGH))
        return Estimate(self.length(gamma).value - other.length(gamma).value, float(low), float(high))


def _lengths(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """τ [draws] of α [draws, γ]."""
    return 1.0 + rates.cumprod(axis=1).sum(axis=1)
