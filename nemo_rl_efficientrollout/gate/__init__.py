"""Whether and how far to speculate. numpy and scipy: knows no engine, and no tensor outside of `detector`."""

from .action import Prediction
from .gates import FixedGate, Gate, RandomGate, make_gate
from .policy import AutoGate
from .step import Load, Step

__all__ = ["AutoGate", "FixedGate", "Gate", "Load", "Prediction", "RandomGate", "Step", "make_gate"]
