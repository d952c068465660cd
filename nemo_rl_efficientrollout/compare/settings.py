"""Which settings of two runs differ, and which of them a comparison of rollouts does not expect to differ."""

from dataclasses import dataclass
from typing import Any

from .run import Run

EXPECTED = (
    *("policy.generation.efficientrollout", "policy.generation.vllm_kwargs", "efficientrollout"),
    *("logger", "checkpointing.checkpoint_dir", "name", "run_dir", "runs_dir"),
)
"""Beginnings of keys: how rollouts are accelerated, and where the run writes."""


@dataclass(frozen=True)
class Differences:
    """Settings by dotted key as (of A, of B), None where a run lacks the key; apart, those that were to be equal."""

    expected: dict[str, tuple[Any, Any]]
    unexpected: dict[str, tuple[Any, Any]]
    unrecorded: tuple[str, ...]


def differences(a: Run, b: Run) -> Differences:
    """Compare settings; runs that recorded none are named in `unrecorded` and the rest is empty."""
    unrecorded = tuple(side for side, run in (("A", a), ("B", b)) if not run.config)
    found = Differences({}, {}, unrecorded)
    if unrecorded:
        return found
    for key in sorted(a.config.keys() | b.config.keys()):
        values = (a.config.get(key), b.config.get(key))
        if values[0] != values[1]:
            expected = any(key == start or key.startswith(f"{start}.") for start in EXPECTED)
            (found.expected if expected else found.unexpected)[key] = values
    return found
