"""Running estimate of acceptance by draft position and context length, with its uncertainty."""

from collections.abc import Sequence
from itertools import accumulate
from math import exp, lgamma, log
from operator import mul

import numpy as np

from .terms import Vector

BUCKETS = 8
_FIRST = 512
"""Context-length buckets: below 512 tokens, then one per doubling, the last beyond 32k."""
NEIGHBOUR = 1.0 / 16.0
"""Weight of evidence from the next bucket: the tail's long answers are not judged by the bulk's short ones."""
HALF_LIFE = 1024
"""Drafts of a bucket after which its older evidence weighs half."""
IDLE_HALF_LIFE = 512
"""Plain steps after which evidence weighs half: a drafter that is not watched may have changed."""
_IDLE_BLOCK = 16
HEALTHY_ACCEPTED, HEALTHY_REJECTED = 22.0, 2.0
"""Optimistic prior, a Beta distribution: speculation is tried before it is judged, and not by its first bad luck."""
BROKEN = 0.03
"""Chance that a drafter is not like that: then any rate is as likely, and what it shows is soon believed."""
POOLED_DRAFTS = 16.0
"""Drafts of its own from which a position counts more than what all positions share."""
KEPT_AT_REFIT = 0.5
"""Share of the evidence that survives a refit: a new drafter resembles the last one, but is not it."""

_WEIGHTS = NEIGHBOUR ** np.abs(np.subtract.outer(np.arange(BUCKETS), np.arange(BUCKETS)))


class Acceptance:
    """α_i(S) = P(draft token i is accepted | tokens 1…i-1 were, context length S), for i = 1…γ_max.

    Counts decay exponentially; each rate is a Beta posterior whose prior is the rate pooled over positions. That one's
    prior is a mixture: a drafter that works, with a chance of one that does not.
    """

    def __init__(self, max_draft_length: int) -> None:
        self._reached = np.zeros((BUCKETS, max_draft_length))
        self._accepted = np.zeros((BUCKETS, max_draft_length))
        self._idle = 0
        self._cache: dict[int, tuple[Vector, Vector]] = {}
        self._lengths: dict[int, Vector] = {}

    def observe(self, drafted: Sequence[int], accepted: Sequence[int], contexts: Sequence[float]) -> None:
        """Count one verification; one entry per request: tokens drafted, how many were accepted, context length."""
        width = self._reached.shape[1]
        buckets = np.array([bucket(context) for context in contexts])
        kept = np.minimum(np.array(accepted), width)
        tried = np.minimum(kept + 1, np.minimum(np.array(drafted), width))
        self._reached *= self._decay(buckets)
        self._accepted *= self._decay(buckets)
        self._reached += _at_least(buckets, tried, width)
        self._accepted += _at_least(buckets, kept, width)
        self._forget_cache()

    def idle(self) -> None:
        """A step without drafts passed. Counted in blocks: most steps of a rollout's bulk are such."""
        self._idle += 1
        if self._idle == _IDLE_BLOCK:
            self._idle = 0
            self._scale(0.5 ** (_IDLE_BLOCK / IDLE_HALF_LIFE))

    def refit(self) -> None:
        """The drafter was rebuilt from new weights: trust the past less."""
        self._scale(KEPT_AT_REFIT)

    def rates(self, context: float = 0.0) -> Vector:
        """α_i at a context length; shape [γ_max], each in (0, 1)."""
        return self._posterior(bucket(context))[0]

    def rates_by_bucket(self) -> list[Vector]:
        """α_i of every bucket of context length; each [γ_max]."""
        return [self._posterior(index)[0] for index in range(BUCKETS)]

    def lengths(self, context: float = 0.0) -> Vector:
        """τ(γ) for γ = 0…γ_max: mean tokens per verification, bonus token included; shape [γ_max + 1].

        τ(γ) = 1 + Σ_{i≤γ} Π_{j≤i} α_j, which is (1-α^(γ+1))/(1-α) for constant α
        (Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, eq. 1).
        """
        index = bucket(context)
        lengths = self._lengths.get(index)
        if lengths is None:
            reach = accumulate(self._posterior(index)[0].tolist(), mul)  # a third of numpy's time on so few
            lengths = self._lengths[index] = np.array([*accumulate(reach, initial=1.0)])
        return lengths

    def deviations(self, context: float = 0.0) -> Vector:
        """Standard deviation of τ(γ) for γ = 0…γ_max, to first order; shape [γ_max + 1]."""
        rates, evidence = self._posterior(bucket(context))
        variance = rates * (1.0 - rates) / (evidence + 1.0)
        reach = np.cumprod(rates)
        # ∂τ(γ)/∂α_i = Σ_{i≤k≤γ} reach_k / α_i
        upto = np.concatenate([[0.0], np.cumsum(reach)])
        slope = np.maximum(upto[:, None] - upto[None, :-1], 0.0) / rates
        return np.sqrt(slope**2 @ variance)

    def _posterior(self, index: int) -> tuple[Vector, Vector]:
        """Means of the Beta posteriors, and drafts that each rests on, the prior's included."""
        if index not in self._cache:
            near = _WEIGHTS[index]
            reached, accepted = near.dot(self._reached), near.dot(self._accepted)  # half the time of @ on so few
            kept = sum(accepted.tolist())
            pooled = _pooled_rate(kept, max(sum(reached.tolist()) - kept, 0.0))
            evidence = reached + POOLED_DRAFTS
            self._cache[index] = (accepted + POOLED_DRAFTS * pooled) / evidence, evidence
        return self._cache[index]

    def _forget_cache(self) -> None:
        self._cache.clear()
        self._lengths.clear()

    def _scale(self, factor: float) -> None:
        self._reached *= factor
        self._accepted *= factor
        self._forget_cache()

    @staticmethod
    def _decay(buckets: np.ndarray) -> Vector:
        return 0.5 ** (np.bincount(buckets, minlength=BUCKETS) / HALF_LIFE)[:, None]


def bucket(context: float) -> int:
    """Index of a context length's bucket."""
    return min(max(int(context) // _FIRST, 0).bit_length(), BUCKETS - 1)


def _pooled_rate(accepted: float, rejected: float) -> float:
    """Posterior mean of one rate for all positions."""
    healthy = HEALTHY_ACCEPTED + accepted, HEALTHY_REJECTED + rejected
    broken = 1.0 + accepted, 1.0 + rejected
    odds = _log_beta(*broken) - _log_beta(*healthy) + _BROKEN_ODDS
    share = 1.0 / (1.0 + exp(min(odds, 700.0)))
    return share * healthy[0] / sum(healthy) + (1.0 - share) * broken[0] / sum(broken)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


_BROKEN_ODDS = log(BROKEN / (1.0 - BROKEN)) + _log_beta(HEALTHY_ACCEPTED, HEALTHY_REJECTED)


def _at_least(buckets: np.ndarray, lengths: np.ndarray, width: int) -> Vector:
    """How many requests of each bucket got beyond each position; shape [BUCKETS, width]."""
    counts = np.bincount(buckets * (width + 1) + lengths, minlength=BUCKETS * (width + 1)).reshape(BUCKETS, width + 1)
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1][:, 1:].astype(float)
