"""An engine whose costs are known: plays steps to a gate and keeps score against the best draft length."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nemo_rl_efficientrollout.gate import Load, Step
from nemo_rl_efficientrollout.gate.gates import Gate

Cost = Callable[[Load, int], float]


@dataclass
class SimulatedEngine:
    """`verify(load, γ)` is T_V(γ), and T_T for γ = 0; `draft(load, γ)` is T_D; both in seconds."""

    verify: Cost
    draft: Cost
    alpha: float
    lengths: Sequence[int]
    noise: float = 0.0
    outliers: float = 0.0
    """Share of steps that take five times as long as they should."""
    seed: int = 0
    delay: int = 0
    """Steps that are scheduled before the outcome of one is known: 1 under asynchronous scheduling."""
    seconds: float = 0.0
    tokens: float = 0.0
    regrets: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    verified: int = 0
    outcomes: deque[Step] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def step(self, gate: Gate, load: Load) -> int:
        """One step: verify what was drafted before, draft what the gate asks for."""
        asked = gate.choose(load)
        seconds = self.verify(load, self.verified) + (asked * self.draft(load, asked) if asked else 0.0)
        accepted = [self._accepted() for _ in range(load.batch)] if self.verified else []
        drafted = [self.verified] * len(accepted)
        measured = seconds * float(np.exp(self.random.normal(0.0, self.noise))) if self.noise else seconds
        if self.outliers and self.random.random() < self.outliers:
            measured *= 5.0
        contexts = [int(load.context)] * len(accepted)
        self.outcomes.append(Step(load, self.verified, asked, measured, True, drafted, accepted, contexts))
        if len(self.outcomes) > self.delay:
            gate.observe(self.outcomes.popleft())
        self.regrets.append(self.time_per_token(load, asked) / min(self.times_per_token(load)) - 1.0)
        self.chosen.append(asked)
        self.seconds += seconds
        self.tokens += load.batch + sum(accepted)
        self.verified = asked
        return asked

    def run(self, gate: Gate, load: Load, steps: int) -> list[int]:
        """Many steps at one load."""
        return [self.step(gate, load) for _ in range(steps)]

    def time_per_token(self, load: Load, length: int) -> float:
        """Seconds per token of every request, drafting `length` tokens a cycle."""
        cycle = self.verify(load, length) + (length * self.draft(load, length) if length else 0.0)
        return cycle / sum(self.alpha**i for i in range(length + 1))

    def times_per_token(self, load: Load) -> list[float]:
        """Of every length that may be chosen."""
        return [self.time_per_token(load, length) for length in self.lengths]

    def speed(self) -> float:
        """Tokens per second so far."""
        return self.tokens / self.seconds

    def _accepted(self) -> int:
        kept = 0
        while kept < self.verified and self.random.random() < self.alpha:
            kept += 1
        return kept
