"""Where the seconds of a rollout went, and how near the gate's cost model came: what the report draws of both."""

from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_rl_efficientrollout.gate.account import Steps, expected, spent
from nemo_rl_efficientrollout.gate.described import Described

if TYPE_CHECKING:
    from nemo_rl_efficientrollout.gate.cost_model import CostModel

    from .engine import Rollout


def account_fields(rollout: "Rollout") -> dict[str, Any]:
    """Fields of `Step`.

    seconds_spent: seconds by what they were spent on; `between` are those between engine steps. They are divided by
        the cost model as it was after the rollout.
    predicted_ratio: predicted over measured seconds of decode steps, by the cost model as it was before the rollout,
        which had not seen them; None without one.
    timeline: with `expected_seconds`, the same predictions, and the `gate` as it was afterwards.
    """
    before, after = (_model(gate) for gate in rollout.gate)
    steps = Steps.of(rollout.timeline)
    parts = spent(steps, after)
    parts["between"] = max(rollout.seconds - sum(parts.values()), 0.0)
    timeline: dict[str, Any] = {**rollout.timeline, "gate": _gate(*rollout.gate)}
    if before is None:
        return {"seconds_spent": parts, "predicted_ratio": None, "timeline": timeline}
    predicted = np.sum(expected(before, steps), axis=0)
    timeline["expected_seconds"] = [float(f"{seconds:.5g}") for seconds in predicted]
    measured = (steps.decode_only > 0) & (steps.seconds > 0)
    ratios = predicted[measured] / steps.seconds[measured]
    low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9]).tolist() if len(ratios) else (None, None, None)
    found = None if middle is None else {"p10": low, "median": middle, "p90": high}
    return {"seconds_spent": parts, "predicted_ratio": found, "timeline": timeline}


def _model(gate: dict[str, Any]) -> "CostModel | None":
    described = gate.get("cost_model")
    return Described.model_validate(described).cost_model() if described else None


def _gate(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The gate after a rollout, with the decisions of this rollout alone."""
    begun = before.get("steps", 0)
    decisions = [decision for decision in after.get("trace", []) if decision["step"] >= begun]
    return {**after, "trace": decisions} if "trace" in after else after
