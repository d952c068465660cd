"""One measured time, from a sweep, a calibration run or an engine."""

from dataclasses import dataclass
from typing import Literal

from .action import SELF
from .terms import Kind, Terms, Vector


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one T_T, T_D, T_V(γ), a whole cycle, or any engine step."""

    kind: Kind | Literal["step"]
    """`step`: verified `draft_length` tokens (0: plain), then drafted `drafted`."""
    batch: int
    """Requests (B)."""
    context: float
    """Their mean context length in tokens (S)."""
    draft_length: int
    """γ; 0 for plain decoding."""
    seconds: float
    drafter: str = SELF
    drafted: int = 0
    """Of a `step`: tokens drafted for the next one."""
    where: str = ""
    """Where it was read, for messages: `sweep.csv:12`."""

    @property
    def plain(self) -> bool:
        """Whether it is a T_T."""
        return self.kind == "plain" or (self.kind == "step" and not self.draft_length and not self.drafted)

    def vector(self, terms: Terms) -> Vector:
        """The terms that it is a sum of."""
        if self.kind == "step":
            return terms.step(self.batch, self.context, self.draft_length, self.drafted, self.drafter)
        return terms.vector(self.kind, self.batch, self.context, self.draft_length, self.drafter)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Seconds of a rollout that are not decode steps: taking the requests in, their prompts, handing them out."""

    requests: int
    prompt: int
    """Tokens of each."""
    seconds: float
