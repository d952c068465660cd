"""Says it loudly when speculation is dead, stale, or steered wrongly: training would go on, only slower.

One state machine over the metrics of training steps, for every driver. Needs no engine.

| alarm        | rings when, for PATIENCE training steps in a row                                                     |
|--------------|------------------------------------------------------------------------------------------------------|
| `behind`     | an engine has no drafter as new as its policy, and decodes plainly                                   |
| `acceptance` | less is accepted than any number format could live on, or acceptance has fallen and no longer pays   |
| `gate_stuck` | the draft lengths that ran cost clearly more than the best by the gate's own model, or it has none   |
| `cost_model` | decode steps took clearly more or less time than the gate's cost model predicted                     |

A gate without judgement (off, fixed, random) predicts nothing, so that the last two are silent.
"""

from collections.abc import Mapping
from typing import NamedTuple

ROOM = "efficientrollout/"
"""What names of this package's metrics begin with."""
RINGING = f"{ROOM}alarms"
"""The metric that is made here: how many alarms ring."""
ACCEPTANCE = "vllm/spec_acceptance_rate"
DRAFTED = "vllm/spec_num_draft_tokens"

PATIENCE = 3
"""Training steps in a row: one alone may have had a refit under way, a first compilation, or a busy neighbour."""
LEAST_DRAFTED = 64
"""Drafted tokens without which a step tells nothing of acceptance: a gate that decodes plainly probes seldom."""
COLLAPSE = 0.25
"""Acceptance that pays nowhere: even 4-bit weights cost a quarter of the bytes of the policy's, for each token."""
FALL = 0.25
"""By which acceptance has fallen since its best, where drafting does not pay any more. A drafter that was never good
enough for a machine is no alarm: plain decoding is best there."""
REGRET = 0.10
"""Time lost against the best action. An honest gate loses a percent or two, to probes and to its dislike of dithering;
where plain decoding is best and runs, it is 0."""
OFF = 0.25
"""Measured over predicted time, less 1."""


class Alarm(NamedTuple):
    """It has just begun to ring."""

    name: str
    text: str
    """What is wrong, in a line."""


class Alarms:
    """Watches the metrics of training steps, under the names that follow NeMo-RL's `train/`."""

    def __init__(self) -> None:
        self._steps = {"behind": 0, "acceptance": 0, "gate_stuck": 0, "cost_model": 0}
        self._best_acceptance = 0.0

    def observe(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """What begins to ring with this step; it is not said again until all was well in between."""
        problems = {
            "behind": _behind(metrics),
            "acceptance": self._collapsed(metrics),
            "gate_stuck": _stuck(metrics),
            "cost_model": _off(metrics),
        }
        raised = []
        for name, problem in problems.items():
            if problem is None:
                continue
            self._steps[name] = self._steps[name] + 1 if problem else 0
            if self._steps[name] == PATIENCE:
                raised.append(Alarm(name, f"{problem}, for {PATIENCE} steps"))
        return raised

    @property
    def ringing(self) -> list[str]:
        """Names of those that ring now."""
        return [name for name, steps in self._steps.items() if steps >= PATIENCE]

    def _collapsed(self, metrics: Mapping[str, float]) -> str | None:
        """None where too little was drafted to tell."""
        rate = metrics.get(ACCEPTANCE)
        if rate is None or metrics.get(DRAFTED, 0.0) < LEAST_DRAFTED:
            return None
        self._best_acceptance = max(self._best_acceptance, rate)
        said = f"{rate:.1%} of drafted tokens were accepted"
        if rate < COLLAPSE:
            return f"{said}: this drafter is not its policy's"
        if rate <= metrics.get(f"{ROOM}break_even", 0.0) and rate < self._best_acceptance - FALL:
            needed = metrics[f"{ROOM}break_even"]
            return f"{said}, once {self._best_acceptance:.1%}, where more than {needed:.1%} would have to be to pay"
        return ""


def _behind(metrics: Mapping[str, float]) -> str:
    behind = metrics.get(f"{ROOM}engines_behind", 0.0)
    if not behind:
        return ""
    lag = metrics.get(f"{ROOM}drafter_version_lag", 0.0)
    return (
        f"{behind:.0f} engines have no drafter that is as new as their policy (mean lag {lag:.2g} refits) and decode"
        " plainly; their logs say why"
    )


def _stuck(metrics: Mapping[str, float]) -> str:
    """What ran is compared with what would have been best, whoever is at fault: the draft length that was taken counts,
    not the one that the gate says it chose. An engine that must not draft is not the gate's fault. What never runs is
    not measured: if drafts become slow only after a gate froze on them, its model may blame the machine.
    """
    if metrics.get(f"{ROOM}engines_behind"):
        return ""
    if blind := metrics.get(f"{ROOM}engines_without_cost_model", 0.0):
        return f"the gates of {blind:.0f} engines still have no cost model to choose by"
    regret = metrics.get(f"{ROOM}regret_estimate", 0.0)
    if regret <= REGRET:
        return ""
    return (
        f"by the gate's own model decoding took {regret:.0%} longer than by the best draft lengths, and they were not"
        " taken"
    )


def _off(metrics: Mapping[str, float]) -> str:
    ratio = metrics.get(f"{ROOM}measured_over_predicted", 1.0)
    if abs(ratio - 1.0) <= OFF:
        return ""
    return f"decode steps took {ratio:.2f} times as long as the gate's cost model predicted"
