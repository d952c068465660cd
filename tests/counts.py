"""Whether counts of token sequences follow a distribution, and how small a bias that would show.

A comparison is at level `ALPHA`. What it can miss is stated: `smallest_bias` is a total variation (the largest error of
the probability of any event) from which on every bias, in whatever direction, is caught with probability `POWER`.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, chi2_contingency, gamma, ncx2

Tokens = tuple[int, ...]
Counts = NDArray[np.int64]
ALPHA = 1e-5
"""Level of each comparison: among a thousand of them a false alarm comes once in a hundred runs."""
POWER = 0.99
SPLITS = 1000
"""From which the null band of the divergence is told."""
RARE = 5
"""Cells in which fewer are expected are pooled."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one comparison."""

    samples: int
    cells: int
    p: float
    """Chi-square: how often exact samples would look as odd."""
    smallest_bias: float
    """Total variation that would be caught, with probability `POWER` at level `ALPHA`."""
    kl: float
    """Kullback-Leibler divergence of the counts from what was expected, in nats."""
    band: float
    """What plain decoding's own samples exceed with probability `ALPHA`."""

    @property
    def exact(self) -> bool:
        return self.p > ALPHA and self.kl < self.band

    def cells_of_row(self) -> dict[str, float | int]:
        """For `Proof.row`."""
        return {
            "samples": self.samples,
            "cells": self.cells,
            "p": float(f"{self.p:.2g}"),
            "smallest bias caught": float(f"{self.smallest_bias:.2g}"),
            "KL": float(f"{self.kl:.2g}"),
            "null band": float(f"{self.band:.2g}"),
        }


def against_exact(counts: "Counter[Tokens]", probability: dict[Tokens, float]) -> Verdict:
    """Counts against the probabilities of all sequences. The null band is that of samples drawn from these."""
    total = counts.total()
    observed = np.array([counts[tokens] for tokens in probability])
    assert observed.sum() == total, "a sequence that the policy cannot give"
    expected = np.array(list(probability.values())) * total
    rare = expected < RARE
    observed, expected = _pool(observed, rare), _pool(expected, rare)
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    assert freedom > 0, f"{total} samples are too few for {len(probability)} sequences"
    p = float(chi2.sf(((observed - expected) ** 2 / expected).sum(), freedom))
    null = np.random.default_rng(0).multinomial(total, expected / expected.sum(), size=SPLITS)
    return Verdict(
        total,
        len(expected),
        p,
        smallest_bias(total, freedom),
        float(_divergence(observed[None], expected[None])[0]),
        _band(_divergence(null, expected[None])),
    )


def against_plain(counts: "Counter[Tokens]", plain: "Counter[Tokens]") -> Verdict:
    """Counts against those of plain decoding. The null band is that of plain decoding's halves, split at random:
    divergences shrink with the number of samples, so `plain` must have twice those of `counts`."""
    assert plain.total() == 2 * counts.total()
    cells = sorted(set(counts) | set(plain))
    left, right = (np.array([c[cell] for cell in cells]) for c in (counts, plain))
    rare = left + right < 3 * RARE
    left, right = _pool(left, rare), _pool(right, rare)
    used = left + right > 0
    left, right = left[used], right[used]
    draws = np.random.default_rng(0).multivariate_hypergeometric(right, counts.total(), size=SPLITS)
    half = draws[0]
    # Two samples of n and 2n tell as much as one of 2n/3 against an exact distribution.
    effective = counts.total() * 2 / 3
    return Verdict(
        counts.total(),
        len(left),
        float(chi2_contingency(np.array([left, right]))[1]),  # type: ignore[arg-type]
        smallest_bias(effective, len(left) - 1),
        float(_divergence(left[None], half[None])[0]),
        _band(_divergence(draws, right[None] - draws)),
    )


def smallest_bias(samples: float, freedom: int) -> float:
    """Total variation from which on a chi-square test at level `ALPHA` has power `POWER`, by the noncentral law.

    A bias of total variation t has a noncentrality of at least 4 t² samples, by Cauchy and Schwarz, and exactly that
    where the bias of every cell is in proportion to its probability: the direction that is hardest to see.
    """
    critical = chi2.isf(ALPHA, freedom)
    noncentrality: Any = brentq(lambda value: ncx2.sf(critical, freedom, value) - POWER, 1e-6, 100 * critical)
    return 0.5 * float(np.sqrt(noncentrality / samples))


def _pool(values: NDArray, rare: NDArray) -> NDArray:
    return np.append(values[~rare], values[rare].sum())


def _band(null: NDArray) -> float:
    """The quantile at `ALPHA`, by the law of sums of squares with the mean and variance of `null`."""
    scale = null.var() / null.mean()
    return float(gamma.isf(ALPHA, null.mean() / scale, scale=scale))


def _divergence(left: NDArray, right: NDArray) -> NDArray:
    """Of rows of counts from rows of counts or of expectations, half a count added to each cell."""
    p = (left + 0.5) / (left + 0.5).sum(axis=1, keepdims=True)
    q = (right + 0.5) / (right + 0.5).sum(axis=1, keepdims=True)
    return (p * np.log(p / q)).sum(axis=1)
