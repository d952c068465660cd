"""How long responses are: a histogram, whatever it was read from or fitted to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from ..simulate.workload import Counts

LONGEST = 2**20
"""Tokens: beyond the context of any model of today. A length above it was counted in something else."""
_NORMAL = NormalDist()
_POINTS = 4096


@dataclass(frozen=True, eq=False)
class Lengths:
    """A distribution of response lengths."""

    name: str
    origin: str
    """Where it comes from, and what of it is a fit, in one line."""
    tokens: Counts
    """Ascending, each at least 1."""
    counts: Counts
    """Responses of each length."""

    @classmethod
    def of(cls, name: str, origin: str, histogram: Mapping[int, int] | list[int]) -> "Lengths":
        """From a count for each length."""
        pairs = enumerate(histogram) if isinstance(histogram, list) else sorted(histogram.items())
        tokens, counts = np.array([(length, count) for length, count in pairs if count], dtype=np.int64).T
        return cls(name, origin, tokens, counts)

    @property
    def responses(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.tokens @ self.counts) / self.responses

    @property
    def longest(self) -> int:
        return int(self.tokens[-1])

    def quantile(self, shares: Vector) -> Counts:
        """The shortest length that this share of the responses does not exceed."""
        upto = np.cumsum(self.counts)
        at = np.searchsorted(upto, np.asarray(shares) * upto[-1] * (1.0 - 1e-12))
        return self.tokens[np.minimum(at, len(self.tokens) - 1)]

    def spread(self, count: int) -> Counts:
        """`count` lengths, ascending: the middle one of each of as many equal shares."""
        return self.quantile((np.arange(count) + 0.5) / count)

    def cut(self, most: int) -> "Lengths":
        """With an end at `most` tokens, as a limit of the engine makes it."""
        if most >= self.longest:
            return self
        histogram: dict[int, int] = {}
        for length, count in zip(self.tokens.tolist(), self.counts.tolist(), strict=True):
            histogram[min(length, most)] = histogram.get(min(length, most), 0) + count
        return Lengths.of(self.name, f"{self.origin}; cut at {most} tokens", histogram)


def log_normal(name: str, origin: str, mean: float, longest: float, responses: int) -> Lengths:
    """The log-normal distribution of which `responses` have this mean and, in the median, this longest one.

    ln(longest / mean) = σ·z - σ²/2, z the normal quantile of the longest. Beyond z²/2 none is so long-tailed: then the
    one with the longest tail.

    Raises:
        UserError: a mean below 1 or above the longest.
    """
    if not 1.0 <= mean <= longest <= LONGEST:
        raise UserError(
            f"{name}: mean {mean:g} and longest {longest:g} tokens; expected a mean from 1 to the longest, and that"
            f" to be {LONGEST} at most"
        )
    z = _NORMAL.inv_cdf(0.5 ** (1.0 / max(responses, 2)))
    sigma = z - math.sqrt(max(z * z - 2.0 * math.log(longest / mean), 0.0))
    middles = np.array([_NORMAL.inv_cdf(share) for share in (np.arange(_POINTS) + 0.5) / _POINTS])
    found = np.exp(math.log(mean) - sigma**2 / 2 + sigma * middles)
    tokens, counts = np.unique(np.clip(np.rint(found), 1, round(longest)).astype(np.int64), return_counts=True)
    return Lengths(name, origin, tokens, counts)
