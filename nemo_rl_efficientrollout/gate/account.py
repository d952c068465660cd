"""What engine steps were spent on, and how near a cost model came to what they took.

A step verifies what the step before it drafted and then drafts for the next. Its time is measured; how that divides
into target and drafter is not. So the division is the cost model's, scaled to the measured step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .cost_model import CostModel
from .terms import Vector

PARTS = ("plain", "draft", "verify", "undivided", "prefill")
"""Plain decoding, drafting, verifying, steps that did both where no cost model is known, and steps with prefills."""


@dataclass(frozen=True)
class Steps:
    """Engine steps as equally long arrays, as in `engine.ledger`: loads, γ verified and γ drafted, measured seconds."""

    batch: Vector
    context: Vector
    verified: Vector
    asked: Vector
    decode_only: Vector
    seconds: Vector

    @classmethod
    def of(cls, timeline: Mapping[str, Sequence[float]]) -> "Steps":
        """From the columns that the engine gives."""
        names = ("active", "context", "draft_length", "asked", "decode_only", "step_seconds")
        return cls(*(np.asarray(timeline[name], dtype=float) for name in names))


def expected(model: CostModel, steps: Steps) -> tuple[Vector, Vector]:
    """Seconds that the target's and the drafter's part of each step are expected to take; each [steps]."""
    target, drafter = np.zeros(len(steps.seconds)), np.zeros(len(steps.seconds))
    for i in range(len(steps.seconds)):
        load = int(steps.batch[i]), float(steps.context[i])
        verified, asked = int(steps.verified[i]), int(steps.asked[i])
        target[i] = model.seconds("verify" if verified else "plain", *load, verified)
        if asked:
            drafter[i] = asked * model.seconds("draft", *load, asked)
    return target, drafter


def spent(steps: Steps, model: CostModel | None) -> dict[str, float]:
    """Measured seconds by what they were spent on: one number for each of PARTS."""
    share = np.zeros(len(steps.seconds))  # of the drafter
    if model is not None:
        target, drafter = expected(model, steps)
        share = np.divide(drafter, target + drafter, out=share, where=target + drafter > 0)
    decoding, speculating = steps.decode_only > 0, (steps.verified > 0) | (steps.asked > 0)
    divided = decoding & speculating & (model is not None)
    seconds = steps.seconds
    amounts = (
        seconds[decoding & ~speculating].sum() + ((1 - share) * seconds)[divided & (steps.verified == 0)].sum(),
        (share * seconds)[divided].sum(),
        ((1 - share) * seconds)[divided & (steps.verified > 0)].sum(),
        seconds[decoding & speculating & ~divided].sum(),
        seconds[~decoding].sum(),
    )
    return dict(zip(PARTS, map(float, amounts), strict=True))
