"""The draft length of the next step: a pure state machine, no I/O, no clock of its own.

States of `AutoGate`: PLAIN (γ = 0) and SPECULATING (γ > 0), both reversible at every step, and a PROBE laid over
either: a short burst at another γ whose expected loss is paid from a credit that grows with the time decoded.
There is no state in which nothing is learned: PLAIN probes speculation, SPECULATING probes plain decoding.
"""

import random
from dataclasses import dataclass
from typing import Protocol

from ..config import GateSettings
from .acceptance import Acceptance
from .step import Step
from .step_times import ENOUGH, StepTimes, bucket

SWITCH_GAIN = 1.05
"""Predicted gain in tokens per second that a change of γ must promise: above the noise of a median (paper §4.2)."""
PROBE_SHARE = 0.003
"""Share of decode time that probing may cost, on average."""
PROBE_STEPS = ENOUGH + 1
"""A burst: one step to change over and `ENOUGH` that count."""
PROBE_EVERY = 256
"""Steps after which what was measured elsewhere is worth measuring again."""


class Gate(Protocol):
    """Chooses γ before a step, learns from it after."""

    def choose(self, active: int) -> int:
        """γ in 0…γ_max for a step with `active` requests."""
        ...

    def observe(self, step: Step) -> None:
        """Learn from a finished step."""
        ...

    def refit(self) -> None:
        """The policy and its drafter have new weights."""
        ...


class FixedGate:
    """Always the same γ; 0 is plain decoding."""

    def __init__(self, draft_length: int) -> None:
        self._draft_length = draft_length

    def choose(self, active: int) -> int:
        return self._draft_length

    def observe(self, step: Step) -> None:
        return

    def refit(self) -> None:
        return


class RandomGate:
    """γ uniform over 0…γ_max at every step: exercises every change of length, for tests."""

    def __init__(self, max_draft_length: int, seed: int) -> None:
        self._max = max_draft_length
        self._random = random.Random(seed)

    def choose(self, active: int) -> int:
        return self._random.randint(0, self._max)

    def observe(self, step: Step) -> None:
        return

    def refit(self) -> None:
        return


@dataclass(slots=True)
class _Probe:
    draft_length: int
    steps_left: int


class AutoGate:
    """γ with the highest expected tokens per second: acceptance length τ(γ) over measured cost ratio."""

    def __init__(self, max_draft_length: int) -> None:
        self._max = max_draft_length
        self.acceptance = Acceptance(max_draft_length)
        self.times = StepTimes()
        self._current = 0
        self._probe: _Probe | None = None
        self._credit = 0.0
        self._clock = 0
        self._step_seconds = 0.0
        self._last_seen: dict[tuple[int, int], int] = {}

    def choose(self, active: int) -> int:
        if self._probe is not None:
            return self._probe.draft_length
        if not self.times.has_baseline(active):
            self._current = 0  # the baseline first: without it nothing can be called faster
            return 0
        speeds = self.speeds(active)
        best = max(range(self._max + 1), key=speeds.__getitem__)
        if best and not self.times.has_ratio(active):
            best = 1  # the first look at drafting should cost little, should it turn out not to pay
        if speeds[best] > SWITCH_GAIN * speeds[self._current]:
            self._current = best
        elif self._current and speeds[self._current] <= 1.0:
            self._current = 0  # hysteresis never holds on to a loss
        self._maybe_probe(active, speeds)
        return self._probe.draft_length if self._probe is not None else self._current

    def observe(self, step: Step) -> None:
        self._clock += 1
        self._credit += PROBE_SHARE * step.seconds
        if step.drafted:
            self.acceptance.observe(step.drafted, step.accepted)
        if step.decode_only:
            self._step_seconds = step.seconds
        if step.steady:
            self.times.observe(step.active, step.verified, step.seconds)
            self._last_seen[bucket(step.active), step.verified] = self._clock
        if self._probe is not None:
            self._probe.steps_left -= 1
            if self._probe.steps_left <= 0:
                self._probe = None

    def refit(self) -> None:
        self.acceptance.refit()

    def speeds(self, active: int) -> list[float]:
        """Expected tokens per second of γ = 0…γ_max over those of plain decoding."""
        return [
            length / self.times.cost_ratio(active, draft_length)
            for draft_length, length in enumerate(self.acceptance.lengths())
        ]

    def _maybe_probe(self, active: int, speeds: list[float]) -> None:
        """Look at the other side, plain or speculating, when it was long unseen and the credit covers the loss.

        Where nothing of this batch size is known the first look is lent: the tail must not wait for the bulk's debts.
        """
        other = 0 if self._current else max(range(1, self._max + 1), key=speeds.__getitem__)
        seen = self._last_seen.get((bucket(active), other))
        if seen is not None and self._clock - seen < PROBE_EVERY:
            return
        loss = PROBE_STEPS * self._step_seconds * max(0.0, speeds[self._current] / speeds[other] - 1.0)
        if self._credit >= loss or not self.times.has_ratio(active):
            self._credit -= loss
            self._probe = _Probe(other, PROBE_STEPS)


def make_gate(settings: GateSettings, max_draft_length: int) -> Gate:
    """The gate that the settings name."""
    match settings.mode:
        case "auto":
            return AutoGate(max_draft_length)
        case "off":
            return FixedGate(0)
        case "fixed":
            assert settings.draft_length is not None  # validated in config
            return FixedGate(settings.draft_length)
        case "random":
            return RandomGate(max_draft_length, settings.seed)
