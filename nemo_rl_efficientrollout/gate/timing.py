"""One measured time, from a sweep, a calibration run or an engine."""

from dataclasses import dataclass

from .action import SELF
from .terms import Kind, Terms, Vector


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one T_T, T_D, T_V(γ) or whole cycle."""

    kind: Kind
    batch: int
    """Requests (B)."""
    context: float
    """Their mean context length in tokens (S)."""
    draft_length: int
    """γ; 0 for plain decoding."""
    seconds: float
    drafter: str = SELF
    where: str = ""
    """Where it was read, for messages: `sweep.csv:12`."""

    def vector(self, terms: Terms) -> Vector:
        """The terms that it is a sum of."""
        return terms.vector(self.kind, self.batch, self.context, self.draft_length, self.drafter)
