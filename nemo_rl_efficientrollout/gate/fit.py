"""A cost model from timings: a robust, non-negative maximum a posteriori fit.

The published fit (arXiv 2606.18967 §4.2) minimizes squared logarithms with a global optimizer; one mislabelled row
moves it. Here errors are relative and Student-t, so a row that its neighbours contradict loses its weight, and θ has a
prior, so that a few rows are enough. What enters θ non-linearly (ridge, drafter ratio, padding) is one of a few
hypotheses, weighed by the same posterior.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
from scipy.optimize import nnls

from .cost_model import CostModel
from .prior import Prior, hypotheses
from .terms import Padding, Terms, Vector
from .timing import Timing

RIDGES = (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
DRAFT_RATIOS = (0.3, 0.5, 0.8)
PADDINGS = (Padding(), Padding(draft_to_cycle=True))
NOISE = 0.02
"""Relative error of a timing before the residuals say otherwise: run-to-run spread of a median on a quiet GPU."""
_NOISE_WEIGHT = 10.0
_TAILS = 4.0
"""Degrees of freedom of the Student-t errors: one row in twenty may be anything."""
_ROUNDS = 8
_TRUST = 0.5
"""Power of the posterior by which hypotheses are weighed: each is judged at its best θ, which flatters the winner."""
_LEAST_EIGENVALUE = 1e-15


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted cost model and what the fit saw."""

    model: CostModel
    prior: Prior
    """The winning hypothesis."""
    weights: Vector
    """Of each timing, 0 (contradicted by all others) to 1.25; shape [timings]."""
    misfit: float
    """-2 · log posterior up to a constant: smaller is better."""


def fit(
    timings: Sequence[Timing], priors: Sequence[Prior] | None = None, paddings: Sequence[Padding] = PADDINGS
) -> Fit:
    """The most likely fit, its θ averaged with those of its rivals: few timings leave several about as likely.

    Rivals have the same padding, as θ means something else under another. With many timings one hypothesis wins.

    Raises:
        ValueError: no timings, or none of plain decoding to scale the prior with where no `priors` are given.
    """
    fits = list(_fits(timings, priors, paddings))
    best = min(fits, key=attrgetter("misfit"))
    rivals = [one for one in fits if one.model.terms is best.model.terms]
    shares = np.exp(-0.5 * _TRUST * np.array([one.misfit - best.misfit for one in rivals]))
    mean = np.average([one.model.mean for one in rivals], axis=0, weights=shares)
    return replace(best, model=replace(best.model, mean=mean))


def most_likely(timings: Sequence[Timing], priors: Sequence[Prior] | None = None) -> Fit:
    """The fit of the one hypothesis that explains the timings best: what a design can reason about.

    Raises:
        ValueError: as `fit`.
    """
    return min(_fits(timings, priors, PADDINGS), key=attrgetter("misfit"))


def _fits(timings: Sequence[Timing], priors: Sequence[Prior] | None, paddings: Sequence[Padding]) -> Iterator[Fit]:
    if not timings:
        raise ValueError("no timings to fit")
    candidates = priors or generic_priors(timings)
    for padding in paddings:
        terms = Terms(_drafters(timings), padding)
        rows = np.stack([timing.vector(terms) for timing in timings])
        for prior in candidates:
            yield _solve(terms, rows, timings, prior)


def generic_priors(timings: Sequence[Timing]) -> list[Prior]:
    """What any machine might be, in the time scale of the cheapest plain step seen.

    Raises:
        ValueError: no timing of plain decoding.
    """
    plain = [t for t in timings if t.plain]
    if not plain:
        raise ValueError("no timing of plain decoding")
    prior = Prior(plain_seconds=min(plain, key=lambda t: (t.batch, t.context)).seconds)
    return hypotheses(prior, RIDGES, DRAFT_RATIOS)


def _drafters(timings: Sequence[Timing]) -> tuple[str, ...]:
    return tuple(sorted({timing.drafter for timing in timings}))


def _solve(terms: Terms, rows: Vector, timings: Sequence[Timing], prior: Prior) -> Fit:
    """Iteratively reweighted NNLS: the EM algorithm of Student-t errors."""
    seconds = np.array([timing.seconds for timing in timings])
    mean, deviation = prior.mean(terms), prior.deviation(terms)
    relative = rows / seconds[:, None]
    weights, noise = np.ones(len(seconds)), NOISE
    theta, z = mean, np.zeros(len(seconds))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights) / noise
        known = relative * root[:, None]
        system = np.vstack([known, np.diag(1.0 / deviation)])
        theta, _ = nnls(system, np.concatenate([root, mean / deviation]), maxiter=50 * terms.size)
        error = relative @ theta - 1.0
        noise = _noise(error, weights, noise**2 * _decided(known * deviation))
        z = error / noise
        weights = (_TAILS + 1.0) / (_TAILS + z**2)
    misfit = np.sum((_TAILS + 1.0) * np.log1p(z**2 / _TAILS)) + 2.0 * len(z) * np.log(noise)
    misfit += np.sum(((theta - mean) / deviation) ** 2)
    covariance = _posterior(prior.covariance(terms), deviation, relative * (np.sqrt(weights) / noise)[:, None])
    model = CostModel(terms, theta, covariance, noise)
    return Fit(model, prior, weights, float(misfit))


def _posterior(prior: Vector, deviation: Vector, system: Vector) -> Vector:
    """Covariance of θ given whitened equations; in units of `deviation`, as θ spans many orders of magnitude."""
    scaled = system * deviation
    precision = np.linalg.inv(prior / np.outer(deviation, deviation)) + scaled.T @ scaled
    values, vectors = np.linalg.eigh(precision)
    half = vectors / np.sqrt(np.maximum(values, _LEAST_EIGENVALUE * values[-1])) * deviation[:, None]
    return half @ half.T


def _noise(error: Vector, weights: Vector, explained: float) -> float:
    """Scale of the errors, drawn towards `NOISE` where there are few; `explained`: squares that θ took from them."""
    total = float(np.sum(weights * error**2)) + explained + _NOISE_WEIGHT * NOISE**2
    return float(np.sqrt(total / (len(error) + _NOISE_WEIGHT)))


def _decided(system: Vector) -> float:
    """Of how many parameters whitened equations know more than the prior of deviation 1."""
    values = np.linalg.eigvalsh(system @ system.T if len(system) < system.shape[1] else system.T @ system)
    return float(np.sum(values / (1.0 + values)))
