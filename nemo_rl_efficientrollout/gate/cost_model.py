"""T_T, T_D and T_V(γ) of (B, S): a mean and a covariance over the terms of a step."""

from dataclasses import dataclass

import numpy as np

from .action import SELF, Action
from .terms import Kind, Terms, Vector


@dataclass(frozen=True, slots=True, eq=False)
class CostModel:
    """A Gaussian belief about θ (see `terms`), all θ ≥ 0."""

    terms: Terms
    mean: Vector
    """θ in seconds (per unit of its term); shape [terms.size]."""
    covariance: Vector
    """Shape [terms.size, terms.size]."""
    noise: float
    """Relative standard deviation of one timing around the model."""

    def seconds(self, kind: Kind, batch: int, context: float, draft_length: int = 0, drafter: str = SELF) -> float:
        """Expected seconds of T_T, T_D, T_V(γ) or a cycle at `batch` requests, `context` tokens each."""
        return float(self.terms.vector(kind, batch, context, draft_length, drafter) @ self.mean)

    def deviation(self, kind: Kind, batch: int, context: float, draft_length: int = 0, drafter: str = SELF) -> float:
        """Standard deviation of `seconds`, from the uncertainty of θ alone."""
        x = self.terms.vector(kind, batch, context, draft_length, drafter)
        return float(np.sqrt(max(x @ self.covariance @ x, 0.0)))

    def cycles(self, batch: int, context: float, actions: tuple[Action, ...]) -> Vector:
        """Expected seconds of one cycle of each action; shape [actions]."""
        return self.terms.cycles(batch, context, actions) @ self.mean
