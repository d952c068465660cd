"""Running estimate of acceptance by draft position."""

from collections.abc import Sequence

HALF_LIFE = 256
"""Drafts after which an observation weighs half: a few seconds of a tail, so the estimate follows the policy."""
PRIOR_RATE = 0.9
PRIOR_DRAFTS = 4.0
"""Optimistic prior, worth four drafts: speculation is tried once before it is judged."""
KEPT_AT_REFIT = 0.5
"""Share of the evidence that survives a refit: a new drafter resembles the last one, but is not it."""


class Acceptance:
    """α_i = P(draft token i is accepted | tokens 1…i-1 were), for i = 1…γ_max.

    The counts decay exponentially per verified draft; a Beta prior fills in for positions never reached.
    """

    def __init__(self, max_draft_length: int) -> None:
        self._reached = [0.0] * max_draft_length
        self._accepted = [0.0] * max_draft_length
        self._decay = 0.5 ** (1.0 / HALF_LIFE)

    def observe(self, drafted: Sequence[int], accepted: Sequence[int]) -> None:
        """Count one verification: for each request, tokens drafted and how many of them were accepted."""
        self._scale(self._decay ** len(drafted))
        for length, kept in zip(drafted, accepted, strict=True):
            for position in range(min(kept + 1, length)):
                self._reached[position] += 1.0
                if position < kept:
                    self._accepted[position] += 1.0

    def refit(self) -> None:
        """The drafter was rebuilt from new weights: trust the past less."""
        self._scale(KEPT_AT_REFIT)

    def rates(self) -> list[float]:
        """α_i for i = 1…γ_max, each in (0, 1)."""
        pooled_rate = _beta_mean(sum(self._accepted), sum(self._reached), PRIOR_RATE)
        return [
            _beta_mean(accepted, reached, pooled_rate)
            for accepted, reached in zip(self._accepted, self._reached, strict=True)
        ]

    def lengths(self) -> list[float]:
        """τ(γ) for γ = 0…γ_max: mean tokens per verification, bonus token included.

        τ(γ) = 1 + Σ_{i≤γ} Π_{j≤i} α_j, which is (1-α^(γ+1))/(1-α) for constant α
        (Leviathan et al. 2023, https://arxiv.org/abs/2211.17192, eq. 1).
        """
        lengths, reach = [1.0], 1.0
        for rate in self.rates():
            reach *= rate
            lengths.append(lengths[-1] + reach)
        return lengths

    def _scale(self, factor: float) -> None:
        self._reached = [count * factor for count in self._reached]
        self._accepted = [count * factor for count in self._accepted]


def _beta_mean(accepted: float, reached: float, prior_rate: float) -> float:
    return (accepted + PRIOR_DRAFTS * prior_rate) / (reached + PRIOR_DRAFTS)
