"""Whether and how far to speculate. Pure Python: knows no engine and no tensor."""

from .policy import AutoGate, FixedGate, Gate, RandomGate, make_gate
from .step import Step

__all__ = ["AutoGate", "FixedGate", "Gate", "RandomGate", "Step", "make_gate"]
