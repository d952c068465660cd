"""The cost model while the engine runs: a Kalman filter over its terms, deaf to outliers, quick after a change.

Every decode step is one equation in θ: T_T or T_V(γ) of what it verified, plus γ·T_D of what it drafted. Memory is
bounded by the size of θ, however long the engine runs.
"""

import math
from collections.abc import Hashable

import numpy as np

from .cost_model import CostModel
from .terms import Vector

_TAILS = 4.0
_MIN_NOISE, _MAX_NOISE, _NOISE_RATE = 0.003, 0.2, 1.0 / 64.0
_MOST_ODD = 256
ODD = 4.0
"""Errors beyond this many standard deviations are believed when seen twice in a row: a first compilation is not."""
STILL = 10.0
"""Times as fast as expected from which a step shows that the model was learned while the machine stood still."""
WANDER = 1e-3
"""Relative random walk of each term per step: a longer queue, another kernel."""
SHARED = 0.3
"""Random walk of the whole machine per step over the noise of a step: a neighbour slows plain steps and drafts alike,
and what was measured before it came still tells their ratio."""
DRIFT, DRIFT_EVERY = 0.02, 64
"""Relative random walk of the whole machine and of each drafter: what is not used is doubted, in the end probed."""
_SURPRISE_RATE, _SURPRISED = 0.25, 1.5
"""The running mean of normalized errors that calls for a new start: three odd steps in a row."""
_JITTER = 1e-6
"""Of every variance, added to it: terms that always came together leave a singular covariance."""
RESTART = 0.3
"""Relative deviation admitted by a new start: of all terms, of each block, of each term."""


class Tracker:
    """A cost model that learns from steps."""

    def __init__(self, model: CostModel) -> None:
        """Start from `model`, with doubt: a calibration is of another day, a seed of no day at all."""
        self.terms = model.terms
        self.mean: Vector = model.mean.copy()
        self.covariance: Vector = model.covariance.copy()
        self.noise = model.noise
        self.restarts = 0
        """How often the machine changed under the model."""
        self._blocks = [self.terms.block(name) for name in ("target", *(f"draft.{d}" for d in self.terms.drafters))]
        self._surprise = 0.0
        self._steps = 0
        self._odd: dict[Hashable, float] = {}
        self._widen(RESTART, own=0.0)

    @property
    def model(self) -> CostModel:
        """What is believed now."""
        return CostModel(self.terms, self.mean.copy(), self.covariance.copy(), self.noise)

    def observe(self, key: Hashable, x: Vector, seconds: float) -> None:
        """Learn that a step of kind `key` with terms `x` took `seconds`; times that are no times are ignored.

        Two steps in a row of one kind that are much faster than expected scale the whole model: steps that are no
        longer taken because they seem slow would not be learned anew by themselves.
        """
        expected = float(x @ self.mean)
        if not (0.0 < seconds < math.inf and expected > 0.0):
            return
        reach = self.covariance @ x
        spread, own = float(x @ reach), (self.noise * expected) ** 2
        error = seconds - expected
        z = error / math.sqrt(spread + own)
        stood_still = STILL * seconds < expected
        odd = stood_still or abs(z) > ODD
        last = self._odd.pop(key, 0.0)
        if odd and (z * last <= 0.0 or abs(last) < 0.5 * abs(z)):
            self._remember_odd(key, z)
            return
        if stood_still:
            self._scale(seconds / expected)
            return
        self._steps += 1
        weight = 1.0 if odd else min(1.0, (_TAILS + 1.0) / (_TAILS + z * z))
        gain = reach / (spread + own / weight)
        self.mean += gain * error
        self.covariance -= gain[:, None] * reach
        self._stay_possible()
        shared = SHARED * self.noise * self.mean
        self.covariance += shared[:, None] * shared
        self.covariance.flat[:: self.terms.size + 1] += (WANDER * self.mean) ** 2
        if spread < own:  # only where the model is sure is the error noise
            target = min(z * z, 9.0) * (spread + own) / expected**2
            variance = self.noise**2 + _NOISE_RATE * (target - self.noise**2)
            self.noise = min(max(math.sqrt(max(variance, 0.0)), _MIN_NOISE), _MAX_NOISE)
        self._surprise += _SURPRISE_RATE * (max(-ODD, min(z, ODD)) - self._surprise)
        if abs(self._surprise) > _SURPRISED:
            self.restarts += 1
            self._surprise = 0.0
            self._widen(RESTART, own=RESTART)
        elif self._steps % DRIFT_EVERY == 0:
            self._widen(DRIFT, own=0.0)

    def _stay_possible(self) -> None:
        """Move to the likeliest θ ≥ 0: what was measured well stays as it is, however the terms share it.

        Projection in the metric of the covariance (Simon 2010, https://doi.org/10.1049/iet-cta.2009.0032). Cutting off
        negative terms would add time to every kind of step that has them, and undo what other steps had told.
        """
        below = np.flatnonzero(self.mean < 0.0)
        if below.size:
            reach = self.covariance[below]
            inner = reach[:, below]
            inner.flat[:: below.size + 1] *= 1.0 + _JITTER
            self.mean -= np.linalg.solve(inner, self.mean[below]).dot(reach)
            np.maximum(self.mean, 0.0, out=self.mean)  # those that the first had carried

    def _remember_odd(self, key: Hashable, z: float) -> None:
        if len(self._odd) >= _MOST_ODD:
            self._odd.clear()
        self._odd[key] = z

    def _scale(self, factor: float) -> None:
        """The whole machine is so many times as slow as it was believed to be."""
        self.mean *= factor
        self.covariance *= factor**2
        self.restarts += 1

    def _widen(self, share: float, own: float) -> None:
        """Admit that all terms, each block and each term may be off by a share of their value."""
        self.covariance += share**2 * np.outer(self.mean, self.mean)
        for block in self._blocks:
            self.covariance[block, block] += share**2 * np.outer(self.mean[block], self.mean[block])
        self.covariance.flat[:: self.terms.size + 1] += (own * self.mean) ** 2
