"""How often drafts are accepted, as it really is: by draft position and context length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .workload import Counts


@dataclass(frozen=True, eq=False)
class AcceptanceCurve:
    """α_i(S) = P(draft token i is accepted | tokens 1…i-1 were, context length S), for i = 1…γ_max."""

    rates: Vector
    """Shape [context ranges, γ_max]; each in 0…1."""
    contexts: Vector
    """Least context length of each range, in tokens, ascending from 0; shape [context ranges]."""

    def __post_init__(self) -> None:
        if self.rates.ndim != 2 or not self.rates.shape[1] or len(self.contexts) != len(self.rates):
            raise UserError(
                f"acceptance: rates have shape {list(self.rates.shape)} with {len(self.contexts)} context ranges,"
                " expected a row for each range and a column for each draft position; correct the rates"
            )
        if not np.all((self.rates >= 0.0) & (self.rates <= 1.0)):
            raise UserError("acceptance: every rate is a probability; correct those outside of 0 to 1")
        if self.contexts[0] != 0.0 or not np.all(np.diff(self.contexts) > 0.0):
            raise UserError("acceptance: context ranges begin at 0 and ascend; sort them")

    @classmethod
    def constant(cls, alpha: float, max_draft_length: int) -> "AcceptanceCurve":
        """One rate whatever the position and the context."""
        return cls(np.full((1, max_draft_length), alpha), np.zeros(1))

    @classmethod
    def by_context(cls, contexts: Sequence[float], alphas: Sequence[float], max_draft_length: int) -> "AcceptanceCurve":
        """One rate for each context range, whatever the position."""
        return cls(np.repeat(np.array(alphas)[:, None], max_draft_length, axis=1), np.array(contexts, dtype=float))

    @property
    def max_draft_length(self) -> int:
        return self.rates.shape[1]

    def at(self, context: Vector | Counts) -> Vector:
        """α_i for each context length; shape [contexts, γ_max]."""
        return self.rates[self._ranges(context)]

    def length(self, context: Vector, draft_length: Counts) -> Vector:
        """τ: expected tokens of a cycle, bonus token included; for each pair of a context length and a γ.

        Raises:
            UserError: a γ that the curve does not reach.
        """
        self.check(int(draft_length.max(initial=0)))
        return self._lengths[self._ranges(context), draft_length]

    def check(self, draft_length: int) -> None:
        """Refuse a γ that the curve does not reach."""
        if draft_length > self.max_draft_length:
            raise UserError(
                f"draft length {draft_length} is beyond the {self.max_draft_length} positions of the acceptance curve;"
                " give rates for all of them"
            )

    @cached_property
    def _lengths(self) -> Vector:
        """τ(γ) = 1 + Σ_{i≤γ} Π_{j≤i} α_j; shape [context ranges, γ_max + 1]."""
        reach = np.cumprod(self.rates, axis=1)
        return np.cumsum(np.concatenate([np.ones((len(reach), 1)), reach], axis=1), axis=1, dtype=np.float64)

    def _ranges(self, context: Vector | Counts) -> Counts:
        return np.searchsorted(self.contexts, context, side="right") - 1
