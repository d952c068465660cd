"""What the gate sees: the load before a step, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Load(NamedTuple):
    """What is decoding now; prefilling requests do not count."""

    batch: int
    """Requests decoding (B)."""
    context: float = 0.0
    """Their mean context length in tokens (S)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished engine step: it verified the drafts of the step before and drafted for the step after."""

    load: Load
    verified: int
    """Longest draft verified in this step, in tokens; 0 is plain decoding."""
    asked: int
    """Draft length asked for the step after."""
    seconds: float
    """To the arrival of the sampled tokens, from that of the step before; after idleness, from its scheduling."""
    decode_only: bool
    """No request was prefilling and none was preempted: the time is a decode time."""
    drafted: Sequence[int] = ()
    """Tokens drafted, one entry per verified request."""
    accepted: Sequence[int] = ()
    """Tokens accepted of those, one entry per verified request."""
    contexts: Sequence[int] = ()
    """Context length in tokens of each verified request."""
