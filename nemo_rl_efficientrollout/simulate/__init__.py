"""A rollout, and the training loop around it, without an engine: how long it takes under which way to choose γ."""

from .acceptance import AcceptanceCurve
from .batching import Limits
from .costs import Costs, ModelCosts, Overhead, Slowed
from .policies import BatchTable, Best, Fixed, Policy
from .prefills import MeasuredPrefill
from .reference import Ladder, OneWayToggle
from .replay import replay
from .rollout import Rollout, Timeline
from .roofline import Roofline
from .stepping import Engine, PolicyGate
from .training import Phases, train
from .workload import Workload, at_once

__all__ = [
    "AcceptanceCurve",
    "BatchTable",
    "Best",
    "Costs",
    "Engine",
    "Fixed",
    "Ladder",
    "Limits",
    "MeasuredPrefill",
    "ModelCosts",
    "OneWayToggle",
    "Overhead",
    "Phases",
    "Policy",
    "PolicyGate",
    "Rollout",
    "Roofline",
    "Slowed",
    "Timeline",
    "Workload",
    "at_once",
    "replay",
    "train",
]
