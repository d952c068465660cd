"""What the gate sees of one engine step."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One finished engine step.

    A step verifies the drafts of the step before and drafts for the step after it. It is *steady* when both
    lengths are equal: only then is its time that of a whole draft-verify cycle.
    """

    active: int
    """Requests in the step (B)."""
    verified: int
    """Longest draft verified in this step, in tokens; 0 is plain decoding."""
    asked: int
    """Draft length asked for the step after."""
    seconds: float
    """From the start of scheduling to the arrival of the sampled tokens."""
    decode_only: bool
    """No request was prefilling: the time is a decode time."""
    drafted: Sequence[int] = ()
    """Tokens drafted, one entry per verified request."""
    accepted: Sequence[int] = ()
    """Tokens accepted of those, one entry per verified request."""

    @property
    def steady(self) -> bool:
        return self.decode_only and self.verified == self.asked
