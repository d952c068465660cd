"""What the gate chooses between: plain decoding, or a drafter and how far it runs ahead."""

from typing import NamedTuple

SELF = "self"
"""Name of the self-drafter: the policy's own quantized twin."""


class Action(NamedTuple):
    """One way to take the next step. Its cost comes from the cost model, its acceptance from the drafter's record."""

    drafter: str
    """Who drafts; empty for plain decoding."""
    draft_length: int
    """γ, tokens drafted before one verification; 0 for plain decoding."""


PLAIN = Action("", 0)


class Prediction(NamedTuple):
    """Tokens per second over those of plain decoding."""

    speedup: float
    """Of the action that is taken."""
    best: float
    """Of the most promising one. The two differ while something is probed, or a gain is too small to switch for."""


def actions(draft_lengths: range | tuple[int, ...], drafters: tuple[str, ...] = (SELF,)) -> tuple[Action, ...]:
    """Plain decoding first, then every drafter at every γ > 0, ascending."""
    return (PLAIN, *(Action(name, length) for name in drafters for length in sorted(set(draft_lengths)) if length > 0))
