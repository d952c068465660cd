"""The loop around rollouts: log-probabilities, training, refit, and how far training may lag behind.

    generation i starts  when generation i-1 has ended and the weights of training step i-1-lag have arrived
    training i starts    when generation i has ended, and training i-1 with its refit

With no lag that is synchronous RL, every part in turn. With a lag of one or more (NeMo-RL's max_trajectory_age_steps)
generation and training overlap, each on GPUs of its own, and the slower one sets the pace. A refit then stops a
generation that is under way, so each but the first takes that much longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of a training step beside its rollout."""

    logprobs: float
    """Of policy and reference model."""
    training: float
    refit: float
    """Transfer of the weights, and re-quantization where a drafter is made."""


@dataclass(frozen=True, eq=False)
class Training:
    """Every array has shape [steps], in seconds from the start."""

    rollout_start: Vector
    rollout_end: Vector
    training_start: Vector
    training_end: Vector
    """Log-probabilities included; the refit comes after."""

    @property
    def seconds(self) -> float:
        """Until the last training step has ended."""
        return float(self.training_end[-1])

    @property
    def step_seconds(self) -> float:
        """Mean time of a step, from training step to training step; of the first where there is one only."""
        steps = len(self.training_end)
        return self.seconds if steps == 1 else float(self.training_end[-1] - self.training_end[0]) / (steps - 1)


def train(rollouts: Sequence[float], phases: Phases, lag: int = 0) -> Training:
    """A run of as many steps as there are rollouts.

    Args:
        rollouts: makespan of each, in seconds.
        phases: the same at every step.
        lag: training steps that a rollout's policy may be behind; 0 is synchronous.

    Raises:
        UserError: no rollouts, or a negative time or lag.
    """
    if not len(rollouts) or min(*rollouts, phases.logprobs, phases.training, phases.refit, lag) < 0:
        raise UserError("training loop: expected at least one rollout, and no negative time or lag; correct them")
    steps = len(rollouts)
    start, end, begin, done = (np.zeros(steps) for _ in range(4))
    for i, seconds in enumerate(rollouts):
        weights = done[i - 1 - lag] + phases.refit if i > lag else 0.0
        start[i] = max(end[i - 1] if i else 0.0, weights)
        end[i] = start[i] + seconds + (phases.refit if lag and i else 0.0)
        begin[i] = max(end[i], done[i - 1] + phases.refit if i else 0.0)
        done[i] = begin[i] + phases.logprobs + phases.training
    return Training(start, end, begin, done)
