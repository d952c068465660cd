"""Counters of one engine: what was drafted, what was accepted, and a timeline of steps."""

from dataclasses import dataclass, field
from typing import Any

from ..gate import Prediction, Step
from .timeline import Timeline


@dataclass(slots=True)
class Ledger:
    """Cumulative counts since the engine started. Lives beside the scheduler, which sees every step once."""

    max_draft_length: int
    drafts: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    accepted_by_position: list[int] = field(default_factory=list)
    decode_steps: int = 0
    speculating_steps: int = 0
    gated_seconds: float = 0.0
    """Of steps for which the gate had a prediction."""
    promised_seconds: float = 0.0
    """What they would have taken by plain decoding, as predicted."""
    ideal_seconds: float = 0.0
    """What they would have taken by the most promising actions, as predicted."""
    timeline: Timeline = field(default_factory=Timeline)

    def __post_init__(self) -> None:
        self.accepted_by_position = [0] * self.max_draft_length

    def record(self, step: Step, finished_at: float, prediction: Prediction | None = None) -> None:
        """Count one step that ended at `finished_at` (seconds of a monotonic clock)."""
        if prediction is not None:
            self.gated_seconds += step.seconds
            self.promised_seconds += step.seconds * prediction.speedup
            self.ideal_seconds += step.seconds * prediction.speedup / prediction.best
        drafted = accepted = 0
        self.decode_steps += 1
        if step.drafted:
            drafted, accepted = sum(step.drafted), sum(step.accepted)
            self.speculating_steps += 1
            self.drafts += len(step.drafted)
            self.drafted_tokens += drafted
            self.accepted_tokens += accepted
            for kept in step.accepted:
                for position in range(kept):
                    self.accepted_by_position[position] += 1
        self.timeline.record(step, finished_at, drafted, accepted)

    def counters(self) -> dict[str, Any]:
        """A plain dict of all counts."""
        return {
            "drafts": self.drafts,
            "drafted_tokens": self.drafted_tokens,
            "accepted_tokens": self.accepted_tokens,
            "accepted_by_position": list(self.accepted_by_position),
            "decode_steps": self.decode_steps,
            "speculating_steps": self.speculating_steps,
        }
